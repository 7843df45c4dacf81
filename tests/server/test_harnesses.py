"""Unmodified clients that are too heavy for the shared environment: litellm, lm-eval and OpenAI's
for Node, each installed here."""

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
LAPTOP = Path(__file__).parents[2] / "onnuri" / "weights" / "laptop"
LITELLM = """
import litellm, sys
more = {"api_base": sys.argv[1], "api_key": "any"}
ask = {"model": "openai/onnuri-laptop", "messages": [{"role": "user", "content": "a red cube"}], **more}
assert litellm.completion(**ask).choices[0].message.content
assert "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True))
text = litellm.text_completion(model="text-completion-openai/onnuri-laptop", prompt="a small red", max_tokens=5, **more)
assert text.choices[0].text
assert litellm.image_generation(model="openai/onnuri-laptop", prompt="a red cube", size="512x512", **more).data[0].b64_json
speech = litellm.speech(model="openai/tts-1", input="a small red sphere", voice="alloy", **more).content
assert litellm.transcription(model="openai/onnuri-laptop", file=("a.mp3", speech), **more).text
assert litellm.responses(model="openai/onnuri-laptop", input="a red cube", **more).output[0].content[0].text
for error, call in ((litellm.exceptions.NotFoundError, lambda: litellm.embedding(model="openai/onnuri-laptop", input="x", **more)),
                    (litellm.exceptions.BadRequestError, lambda: litellm.completion(**ask, temperature=9))):
    try:
        call()
    except error:
        continue
    raise AssertionError(error)
"""
NODE = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any" });
const model = "onnuri-laptop";
const check = (fine, what) => { if (!fine) throw new Error(what); };
const chat = await client.chat.completions.create({ model, messages: [{ role: "user", content: "a red cube" }] });
check(chat.choices[0].message.content, "chat");
let text = "";
const stream = await client.completions.create({ model, prompt: "a small red", stream: true });
for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
check(text, "completions");
const made = await client.images.generate({ model, prompt: "a red cube", size: "512x512" });
const picture = await toFile(Buffer.from(made.data[0].b64_json, "base64"), "a.png");
check((await client.images.edit({ model, image: picture, prompt: "make it blue" })).data[0].b64_json, "edit");
const said = { model: "tts-1", voice: "alloy", input: "a small red sphere", response_format: "aac" };
const sound = await client.audio.speech.create(said);
const file = await toFile(Buffer.from(await sound.arrayBuffer()), "a.aac");
check((await client.audio.transcriptions.create({ model, file, response_format: "srt" })).includes("-->"), "srt");
let video = await client.videos.create({ model, prompt: "a red cube spins", seconds: "4", size: "720x1280" });
while (video.status === "queued" || video.status === "in_progress") video = await client.videos.retrieve(video.id);
const movie = await (await client.videos.downloadContent(video.id)).arrayBuffer();
check(video.status === "completed" && movie.byteLength > 1000, "video");
check((await client.responses.create({ model, input: "a red cube" })).output_text, "responses");
const code = await client.embeddings.create({ model, input: "x" }).catch((error) => error.status);
check(code === 404, "404");
"""


@pytest.fixture(scope="module")
def served(new_server):
    return new_server("--alias", "tts-1=onnuri-laptop")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment that has the clients, and this one's packages below them; of a prepared one,
    `ONNURI_CLIENTS_PYTHON`."""
    if prepared := os.environ.get("ONNURI_CLIENTS_PYTHON"):
        return Path(prepared)
    folder = tmp_path_factory.mktemp("clients")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    own = folder / "bin" / "python"
    asked = [own, "-c", "import site; print(site.getsitepackages()[0])"]
    packages = subprocess.run(asked, capture_output=True, text=True, check=True)
    Path(packages.stdout.strip(), "ours.pth").write_text("\n".join(site.getsitepackages()))
    lock = Path(__file__).parents[2] / "locks" / "clients.lock"
    made = subprocess.run(
        [own, "-m", "pip", "install", "-q", "-r", lock],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return own


def run(command, **more):
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    made = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, **offline}, **more
    )
    assert made.returncode == 0, (made.stdout + made.stderr)[-4000:]


def test_litellm(served, python, tmp_path):
    (tmp_path / "ask.py").write_text(LITELLM)
    run([python, tmp_path / "ask.py", f"{served.url}/v1"])


@pytest.mark.parametrize("tokenized", ["True", "False"])
def test_lm_eval_scores_choices(served, python, tmp_path, tokenized):
    """The harness's own task, of sentences of the toy world beside nonsense: the model knows which
    goes on so."""
    rows = [
        ("A small red", ["sphere", "zebra"], 0),
        ("a large blue", ["quantum", "cube"], 1),
        ("작은 빨간", ["구가", "자동차가"], 0),
    ]
    (tmp_path / "toy.jsonl").write_text(
        "".join(
            json.dumps({"said": said, "choices": choices, "answer": answer}) + "\n"
            for said, choices, answer in rows
        )
    )
    (tmp_path / "toy.yaml").write_text(
        json.dumps(
            {
                "task": "toy",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": str(tmp_path / "toy.jsonl")},
                "test_split": "train",
                "output_type": "multiple_choice",
                "doc_to_text": "{{said}}",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": "{{answer}}",
                "metric_list": [{"metric": "acc"}],
            }
        )
    )
    about = (
        f"model=onnuri-laptop,base_url={served.url}/v1/completions,tokenizer={LAPTOP},tokenizer_backend=huggingface,"
        f"tokenized_requests={tokenized}"
    )
    run(
        [
            python,
            "-m",
            "lm_eval",
            "--model",
            "local-completions",
            "--model_args",
            about,
            "--tasks",
            "toy",
            "--include_path",
            tmp_path,
            "--output_path",
            tmp_path / "out",
        ]
    )
    [result] = (tmp_path / "out").rglob("results*.json")
    assert json.loads(result.read_text())["results"]["toy"]["acc,none"] == 1.0


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm")
def test_openais_client_for_node(served, tmp_path):
    (tmp_path / "ask.mjs").write_text(NODE)
    run(["npm", "install", "--silent", "--prefix", tmp_path, "openai@6"], cwd=tmp_path)
    run(["node", tmp_path / "ask.mjs", f"{served.url}/v1"], cwd=tmp_path)
