"""Talk to a server with OpenAI's own client: a sentence to a picture and speech, and the picture back to words.

onnuri serve &
python examples/talk.py [http://127.0.0.1:8000/v1]
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=url, api_key="none")

answer = client.chat.completions.create(
    model="onnuri-laptop",
    modalities=["image", "audio"],
    audio={"voice": "default", "format": "wav"},
    messages=[{"role": "user", "content": "작은 빨간 구가 파란 정육면체 왼쪽에 있다"}],
)
message = answer.choices[0].message
picture = message.images[0]["image_url"]["url"]
out = Path("out")
out.mkdir(exist_ok=True)
(out / "picture.png").write_bytes(base64.b64decode(picture.partition(",")[2]))
(out / "speech.wav").write_bytes(base64.b64decode(message.audio.data))
print("wrote out/picture.png and out/speech.wav, which says:", message.audio.transcript)

stream = client.chat.completions.create(
    model="onnuri-laptop",
    stream=True,
    extra_body={"language": "en"},
    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}],
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
