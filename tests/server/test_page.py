"""The page in a real browser, Debian's Chromium, against a real server: what people do there, by
mouse and by keyboard."""

import base64
import functools
import io
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Route, expect, sync_playwright
from processes import LIMIT_SECONDS

ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu-compositing",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
WITHOUT_3D = ["--disable-3d-apis"]
WITH_3D = [
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # in software, so seconds for every first model
VIEWPORT = {"width": 1280, "height": 720}
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"
VIEWERS = (".user model-viewer", ".answer model-viewer")
"""of a question and of its answer; each loads its model once it is in sight"""
NAMES = {"image": "scene.png", "audio": "scene.wav", "video": "scene.mp4", "mesh": "scene.glb"}
REFUSED = "Failed to load resource: the server responded with a status of 4"
"""what the browser itself logs of a request that the server refuses"""
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src data: blob:; connect-src 'self' data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""under which the page works, whether or not the server sends one"""
AXE = Path(__file__).with_name("axe.min.js")

expect.set_options(timeout=1000 * LIMIT_SECONDS)


def _refuse(route: Route, status: int, error: dict[str, Any]) -> None:
    route.fulfill(status=status, json={"error": error})


@pytest.fixture(scope="module")
def launch():
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not path:
        pytest.fail("the page's tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        yield lambda *more: playwright.chromium.launch(executable_path=path, args=[*ARGS, *more])


@pytest.fixture(scope="module")
def browser(launch):
    """As people have one without a graphics driver, which is quick here: a 3D model is a file that
    can be saved."""
    return launch(*WITHOUT_3D)


@pytest.fixture(scope="module")
def browser_3d(launch):
    return launch(*WITH_3D)


def new_context(browser, to, **options):
    """A fresh profile, in which the server's page works under the strictest policy."""
    context = browser.new_context(base_url=to.url, **{"locale": "ko-KR", **options})
    context.add_init_script(
        "localStorage['onnuri-settings'] ??= '{\"seed\": 1}'"
    )  # the same answers each time
    context.route(re.compile(rf"^{to.url}/(docs)?$"), with_policy)
    return context


@pytest.fixture
def watch(server):
    """Watches pages: at the end, nothing may stand in any console but what the server refused."""
    wrong, watched = [], []

    def note(message):
        if message.type == "error" and not message.text.startswith(REFUSED):
            wrong.append(message.text)

    def fail(error):
        wrong.append(str(error))

    def watch_(page):
        watched.append(page)
        page.on("console", note)
        page.on("pageerror", fail)

    yield watch_
    for page in watched:
        page.remove_listener("console", note)
        page.remove_listener("pageerror", fail)
    assert not wrong, f"{wrong}\n{server.log.read_text()[-3000:]}"


@pytest.fixture
def open_page(request, server, watch):
    """Opens the page in a fresh profile."""
    contexts = []

    def open_(path="/", to=server, with_3d=False, **options):
        contexts.append(
            new_context(
                request.getfixturevalue("browser_3d" if with_3d else "browser"), to, **options
            )
        )
        page = contexts[-1].new_page()
        watch(page)
        page.goto(path)
        if path == "/":
            wait_until_ready(page)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def tab(browser, server):
    """One for the tests that change nothing but what `page` puts back: a profile of its own costs a
    second of processor."""
    return new_context(browser, server, viewport=VIEWPORT).new_page()


@pytest.fixture
def page(tab, server, watch):
    """The page as one who comes for the first time sees it."""
    tab.goto("about:blank")
    tab.unroute_all()
    tab.context.clear_permissions()
    tab.set_viewport_size(VIEWPORT)
    line = tab.context.new_cdp_session(tab)
    line.send("Storage.clearDataForOrigin", {"origin": server.url, "storageTypes": "all"})
    line.detach()
    watch(tab)
    tab.goto("/")
    wait_until_ready(tab)
    return tab


def with_policy(route):
    answer = route.fetch()
    route.fulfill(response=answer, headers={"content-security-policy": POLICY, **answer.headers})


def wait_until_ready(page):
    """The conversation is back and the models are known: whoever speaks sooner is answered by the
    first model only."""
    expect(page.locator("body[data-ready]")).to_be_attached()


def wait_for(page, expression):
    """Until it holds, asked from outside: what polls within the page needs `eval`, which the page's
    policy forbids."""
    end = time.monotonic() + LIMIT_SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not within {LIMIT_SECONDS} s: {expression}"
        page.wait_for_timeout(50)  # in which the browser's events are handled


KEPT = """async () => {
  for (const { name } of await indexedDB.databases()) await new Promise((done) => {
    const opening = indexedDB.open(name);
    opening.onsuccess = () => {
      const stores = [...opening.result.objectStoreNames];
      const reading = opening.result.transaction(stores);
      stores.forEach((store) => reading.objectStore(store).count());
      reading.oncomplete = () => { opening.result.close(); done(); };
    };
  });
}"""
"""ends once all that was written before is kept: a reading transaction waits for those that
write"""


def reload(page):
    """As people do: not in the same millisecond in which something was said or chosen."""
    page.evaluate(KEPT)
    page.reload()
    wait_until_ready(page)


def want(page, *outputs):
    for button in page.locator("#outputs button").all():
        if (button.get_attribute("aria-pressed") == "true") != (
            button.get_attribute("data-kind") in outputs
        ):
            button.click()


def say(page, text):
    page.get_by_role("textbox", name="메시지").fill(text)
    page.get_by_role("button", name="보내기").click()


def answer(page, state="done", nth=-1):
    """The bubble of the last answer, once it has ended as expected."""
    bubble = page.get_by_test_id("answer").nth(nth)
    expect(bubble).not_to_have_attribute("data-state", "streaming")
    expect(bubble).to_have_attribute("data-state", state)
    return bubble


def attach(page, name, data):
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": data})


def say_on_a_slow_line(page):
    """Asks for everything where it takes its time to arrive; what makes the line quick again."""
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")

    def at(speed):
        line.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": speed, "uploadThroughput": -1},
        )

    at(8_000)
    want(page, "text", "image", "audio", "video", "mesh")
    say(page, SENTENCE)
    return lambda: at(-1)


def body_sent(page, act):
    """The body of the chat request that `act` makes."""
    with page.expect_request("**/v1/chat/completions") as request:
        act()
    return json.loads(request.value.post_data)


def test_a_sentence_is_answered_in_all_media(page):
    want(page, "text", "image", "audio", "video", "mesh")
    say(page, SENTENCE)
    bubble = answer(page)
    expect(bubble.get_by_test_id("answer-text")).to_contain_text("빨간 구")
    expect(bubble.get_by_test_id("usage")).to_contain_text("동영상")
    expect(bubble.get_by_test_id("media-mesh")).to_contain_text(
        "이 브라우저는 3D를 그리지 못합니다"
    )
    wait_for(page, "document.querySelector('.answer audio').duration > 0.3")
    wait_for(page, "document.querySelector('.answer video').currentTime > 0")
    assert bubble.locator("img").evaluate("image => image.naturalWidth") > 0
    for kind, ending in (("image", "png"), ("audio", "wav"), ("video", "mp4"), ("mesh", "glb")):
        with page.expect_download() as download:
            bubble.get_by_test_id(f"media-{kind}").get_by_role("button", name="내려받기").click()
        assert (
            download.value.suggested_filename == f"onnuri-{kind}.{ending}"
            and download.value.path().stat().st_size > 100
        )


@pytest.mark.parametrize("kind", NAMES)
def test_every_modality_can_be_shown_and_asked_about(page, scene, kind):
    want(page, "text")
    attach(page, NAMES[kind], scene["shape" if kind == "mesh" else kind])
    expect(page.get_by_test_id(f"chip-{kind}")).to_be_visible()
    say(page, "" if kind == "audio" else "몇 개가 있나요?")
    expect(page.get_by_test_id("question").get_by_test_id(f"media-{kind}")).to_be_visible()
    expect(answer(page).get_by_test_id("answer-text")).not_to_be_empty()


def test_files_are_dropped_pasted_taken_from_answers_and_taken_off_again(page, scene):
    say(page, SENTENCE)
    answer(page).get_by_test_id("media-image").get_by_role("button", name="붙이기").click()
    expect(page.get_by_test_id("chip-image")).to_have_count(1)
    bring = """([bytes, kind]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, {type: "image/png"}));
        const about = {bubbles: true, dataTransfer: transfer, clipboardData: transfer};
        document.body.dispatchEvent(kind === "drop" ? new DragEvent(kind, about) : new ClipboardEvent(kind, about));
    }"""
    for count, kind in ((2, "drop"), (3, "paste")):
        page.evaluate(bring, [list(scene["image"]), kind])
        expect(page.get_by_test_id("chip-image")).to_have_count(count)
    for name in ("drop.png", "paste.png"):
        page.get_by_role("button", name=f"{name} 빼기").click()
    expect(page.get_by_test_id("chip-image")).to_have_count(1)
    attach(page, "notes.txt", b"hello")
    expect(page.locator("#notice")).to_contain_text("notes.txt: 읽을 수 없는 종류")


def test_an_answer_is_stopped_and_the_next_question_works(page):
    quicken = say_on_a_slow_line(page)
    expect(page.get_by_test_id("answer-text")).not_to_be_empty()
    page.get_by_role("button", name="멈추기").click()
    bubble = answer(page, "stopped")
    expect(bubble).to_contain_text("멈췄습니다")
    expect(bubble.get_by_test_id("answer-text")).not_to_be_empty()
    quicken()
    body = body_sent(page, lambda: say(page, "보라 별이 튄다"))
    assert not {"images", "videos", "meshes"} & set(
        body["messages"][1]
    )  # a half-drawn picture is not spoken about
    expect(answer(page).get_by_test_id("answer-text")).to_contain_text("별")


def test_a_conversation_goes_on_after_a_reload(page):
    want(page, "image", "audio")
    say(page, SENTENCE)
    answer(page)
    reload(page)
    bubble = answer(page)
    expect(bubble.get_by_test_id("media-image").locator("img")).to_be_visible()
    wait_for(page, "document.querySelector('.answer audio').duration > 0.3")
    want(page, "text")
    body = body_sent(page, lambda: say(page, "구는 무슨 색인가요?"))
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"] and body[
        "modalities"
    ] == ["text"]
    assert len(body["messages"][1]["images"]) == 1 and "videos" not in body["messages"][1]
    expect(answer(page).get_by_test_id("answer-text")).not_to_be_empty()
    page.get_by_role("button", name="새 대화").click()
    reload(page)
    expect(page.locator("#examples button").first).to_be_visible()
    expect(page.get_by_test_id("answer")).to_have_count(0)


def stream_of(*deltas, end="data: [DONE]\n\n"):
    """A stream's body, of the deltas of its chunks."""
    return (
        "".join(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas)
        + end
    )


def answer_with(page, *deltas, **more):
    """Has the page's next questions answered without a model: what is tested is the page."""
    body = stream_of(*(deltas or [{"content": "A purple star bounces."}]), **more)
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


BUSY = {
    "message": "160 requests are under way; try again in a moment",
    "type": "rate_limit_error",
    "code": "server_busy",
}


READING_ABOVE = """() => {
    const real = window.fetch;
    window.fetch = async (...asked) => { const said = await real(...asked); scrollTo({top: 0, behavior: "instant"}); return said; };
}"""
"""when the server answers, the user has scrolled away"""


def test_what_the_server_refuses_is_told_in_the_words_of_people(page):
    with_words = {
        "message": "messages[0].content[0]: has 20000000 pixels; resize it",
        "words": "그림이 너무 큽니다.",
    }
    unknown = {"message": "temperature: is no number", "code": "invalid_value"}
    refused = [(429, BUSY), (400, with_words), (400, unknown)]
    told = [
        "지금 묻는 사람이 너무 많습니다. 잠시 뒤에 다시 물어보세요.",
        with_words["words"],
        "서버가 이 물음을 받지 못했습니다. 붙인 파일이나 설정을 바꾸어 다시 물어보세요.",
    ]
    page.set_viewport_size({"width": 390, "height": 560})
    page.evaluate(READING_ABOVE)
    for (status, error), words in zip(refused, told, strict=True):
        page.route(
            "**/v1/chat/completions",
            functools.partial(_refuse, status=status, error=error),
            times=1,
        )
        say(page, SENTENCE)
        bubble = answer(page, "error")
        expect(bubble.get_by_role("alert")).to_have_text(words)
        wait_for(
            page,
            """() => {
            const [told, composer] = [[...document.querySelectorAll(".problem")].at(-1), document.querySelector("#composer")];
            return told.getBoundingClientRect().bottom <= composer.getBoundingClientRect().top;
        }""",
        )
        expect(bubble.get_by_text(error["message"])).to_be_hidden()  # until it is asked for
        bubble.get_by_text("서버가 한 말").click()
        expect(bubble.get_by_text(error["message"])).to_be_visible()
    answer_with(page)
    page.get_by_role("button", name="다시 묻기").click()
    answer(page)
    expect(page.get_by_test_id("question")).to_have_count(
        3
    )  # the question was asked again, not once more
    attach(page, "broken.glb", b"glTF, but no more of it")
    expect(page.locator("#notice")).to_have_text(
        "broken.glb: 파일이 온전하지 않아 읽지 못했습니다(GLB). 파일 전체를 다시 주세요."
    )


def refuse_key(page, **times):
    refusal = {
        "error": {"message": "the API key is missing or not known", "code": "invalid_api_key"}
    }
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=401, json=refusal), **times
    )


def test_where_a_key_is_asked_for_there_is_a_box_for_it(page):
    refuse_key(page, times=1)
    say(page, SENTENCE)
    answer(page, "error").get_by_label("API 키").fill("sk-ours")
    answer_with(page)
    with page.expect_request("**/v1/chat/completions") as request:
        page.keyboard.press("Enter")
    assert (
        request.value.headers["authorization"] == "Bearer sk-ours"
        and request.value.headers["accept-language"] == "ko"
    )
    answer(page)


def test_an_error_in_the_middle_of_an_answer_keeps_what_had_come(page):
    answer_with(
        page,
        {"content": "작은 "},
        end=f"data: {json.dumps({'error': {'message': 'called off', 'code': 'timeout'}})}\n\n",
    )
    say(page, SENTENCE)
    bubble = answer(page, "error")
    expect(bubble.get_by_role("alert")).to_contain_text("답이 너무 오래 걸려")
    expect(bubble.get_by_test_id("answer-text")).to_have_text("작은")


def test_a_modality_that_came_to_nothing_is_told_beside_what_came(page):
    failure = {"type": "mesh_url", "message": "an empty shape: has no surface to write"}
    answer_with(page, {"content": "없음"}, {"failures": [failure]})
    say(page, SENTENCE)
    bubble = answer(page)
    expect(bubble.get_by_role("alert")).to_have_text("3D: 만들지 못했습니다. 다르게 물어보세요.")
    expect(bubble.get_by_text("an empty shape")).to_be_hidden()
    expect(bubble.get_by_test_id("answer-text")).to_have_text("없음")


def test_what_the_server_says_of_its_own_answer_stands_above_it_and_stays(page):
    notice = {"code": "outside", "message": "저는 작은 세계만 압니다.", "details": []}
    last = (
        f"data: {json.dumps({'choices': [], 'onnuri': {'notices': [notice]}})}\n\ndata: [DONE]\n\n"
    )
    answer_with(page, {"content": "안녕"}, end=last)
    say(page, "안녕? 너는 뭘 할 수 있어?")
    answer(page)
    reload(page)
    bubble = answer(page)
    expect(bubble.get_by_test_id("notice")).to_have_text(notice["message"])
    assert (
        bubble.get_by_test_id("notice").bounding_box()["y"]
        < bubble.get_by_test_id("answer-text").bounding_box()["y"]
    )


def talks(page):
    return page.get_by_role("complementary", name="대화 목록").locator(".title")


def test_conversations_are_listed_opened_renamed_and_deleted(page):
    answer_with(page)
    for said in ("보라 별이 튄다", "파란 구가 있다"):
        say(page, said)
        answer(page)
        page.get_by_role("button", name="새 대화").click()
        expect(page.get_by_test_id("question")).to_have_count(0)
    expect(talks(page)).to_have_text(["파란 구가 있다", "보라 별이 튄다"])
    talks(page).last.click()
    expect(page.get_by_test_id("question").locator(".words")).to_have_text("보라 별이 튄다")
    page.get_by_label("보라 별이 튄다: 이름 바꾸기").press("Enter")
    page.get_by_role("button", name="이름 바꾸기").press("Enter")
    page.get_by_label("대화의 이름").fill("별")
    page.keyboard.press("Enter")
    expect(talks(page)).to_have_text(["파란 구가 있다", "별"])
    page.get_by_label("파란 구가 있다: 이름 바꾸기").click()
    page.get_by_role("button", name="지우기").click()
    page.keyboard.press("Escape")  # not this time
    expect(talks(page)).to_have_count(2)
    page.get_by_role("button", name="지우기").click()
    page.get_by_role("dialog").get_by_role("button", name="지우기").click()
    expect(talks(page)).to_have_text(["별"])
    reload(page)
    expect(talks(page)).to_have_text(["별"])
    expect(page.get_by_test_id("question").locator(".words")).to_have_text(
        "보라 별이 튄다"
    )  # the other one was deleted
    page.set_viewport_size({"width": 390, "height": 800})
    expect(talks(page)).to_have_count(0)
    page.get_by_role("button", name="대화 목록").press("Enter")
    expect(talks(page)).to_have_text(["별"])
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="대화 목록")).to_be_focused()


def test_a_conversation_from_before_there_was_a_list_is_in_it(page):
    page.evaluate("""() => new Promise((done) => {
        const opening = indexedDB.open("onnuri", 1);
        opening.onsuccess = () => {
            const writing = opening.result.transaction("turns", "readwrite");
            const answer = {role: "assistant", model: null, text: "A red sphere.", transcript: "", media: [], preview: null,
                            usage: null, firstSeconds: 1, seconds: 1, error: "an old error", stopped: false};
            [{role: "user", text: "빨간 구", transcript: "", media: []}, answer].forEach((turn, k) =>
                writing.objectStore("turns").put(turn, k));
            writing.oncomplete = () => { opening.result.close(); done(); };
        };
    })""")
    reload(page)
    expect(talks(page)).to_have_text(["빨간 구"])
    expect(answer(page, "error").get_by_role("alert")).to_have_text("an old error")


def test_a_message_is_copied_edited_and_its_answer_made_again(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer_with(page)
    say(page, "보라 별이 튄다")
    answer(page).get_by_role("button", name="복사").click()
    expect(page.locator("#notice")).to_have_text("복사했습니다")
    assert page.evaluate("navigator.clipboard.readText()") == "A purple star bounces."
    body = body_sent(page, lambda: answer(page).get_by_role("button", name="다시 만들기").click())
    assert (
        len(body["messages"]) == 1 and body["seed"] != 1
    )  # with the seed of the settings it would be the same
    answer(page)
    say(page, "파란 구가 있다")
    answer(page)
    page.get_by_test_id("question").first.get_by_role("button", name="고치기").click()
    page.get_by_label("고친 메시지").fill("노란 별이 튄다")
    body = body_sent(page, lambda: page.get_by_role("button", name="고쳐 보내기").click())
    assert [m["content"] for m in body["messages"]] == [
        [{"type": "text", "text": "노란 별이 튄다"}]
    ] and body["seed"] == 1
    answer(page)
    reload(page)
    expect(page.get_by_test_id("question").locator(".words")).to_have_text(["노란 별이 튄다"])
    expect(page.get_by_test_id("answer")).to_have_count(1)


def test_pictures_are_enlarged_and_closed_by_keyboard(page):
    want(page, "image")
    say(page, SENTENCE)
    button = answer(page).get_by_role("button", name="그림 크게 보기")
    button.press("Enter")
    picture = page.get_by_role("dialog", name="크게 보기").get_by_role("img")
    expect(picture).to_be_visible()
    small = page.locator(".tile img").bounding_box()["width"]
    wait_for(
        page, f"document.querySelector('dialog img').getBoundingClientRect().width > {2 * small}"
    )
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()


def test_a_photograph_that_is_too_large_is_made_smaller_by_the_page(page):
    photograph = io.BytesIO()
    picture = Image.new("RGB", (5000, 4000), (200, 40, 40))
    picture.paste(
        (20, 60, 200), (1000, 1000, 3000, 3000)
    )  # one plain colour would be nothing to look at
    picture.save(photograph, "JPEG")
    answer_with(page)
    attach(page, "photo.jpg", photograph.getvalue())
    expect(page.get_by_test_id("chip-image")).to_be_visible()
    body = body_sent(page, lambda: page.get_by_role("button", name="보내기").click())
    sent = body["messages"][0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))).size == (2048, 1638)


def test_the_microphone_and_the_camera_make_attachments(page):
    want(page, "text")
    page.get_by_role("button", name="말 녹음하기").click()
    page.wait_for_timeout(700)  # of sound
    page.get_by_role("button", name="녹음 끝내기").click()
    expect(page.get_by_test_id("chip-audio")).to_be_visible()
    wait_for(page, "document.querySelector('.chip audio').duration > 0.3")
    body = body_sent(page, lambda: page.get_by_role("button", name="보내기").click())
    assert body["messages"][0]["content"][0]["input_audio"]["format"] == "wav"
    bubble = page.get_by_test_id("answer")
    expect(bubble).to_have_attribute("data-state", re.compile("done|error"))
    expect(
        bubble.locator("[data-testid=answer-text]:visible, [role=alert], .mark").first
    ).not_to_be_empty()
    page.get_by_role("button", name="사진 찍기").click()
    page.get_by_role("button", name="찍기", exact=True).click()
    expect(page.get_by_test_id("chip-image")).to_be_visible()


def test_a_microphone_that_may_not_be_used_is_told(page):
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')); }"
    )
    page.get_by_role("button", name="말 녹음하기").click()
    expect(page.locator("#notice")).to_contain_text("마이크를 쓸 수 없습니다")


def test_settings_are_sent_and_stay(page):
    page.get_by_role("button", name="설정").click()
    page.get_by_label("시드").fill("7")
    page.get_by_label("답의 언어").select_option("en")
    page.get_by_label("API 키").fill("any")
    page.get_by_role("button", name="확인").click()
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    reload(page)
    page.get_by_role("textbox", name="Message").fill("A purple star bounces")
    body = body_sent(page, lambda: page.get_by_role("button", name="Send").click())
    assert (body["seed"], body["language"], body["stream"]) == (
        7,
        "en",
        True,
    ) and "temperature" not in body
    answer(page)


def test_by_keyboard_only(page):
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "message":
            break
    page.keyboard.type("A purple star")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("bounces")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("question")).to_contain_text(
        "A purple star\nbounces", use_inner_text=True
    )
    answer(page)
    expect(page.locator("#announcer")).to_contain_text("답이 왔습니다")
    assert page.evaluate("document.activeElement.id") == "message"


def test_no_video_plays_for_those_who_want_calm(open_page):
    page = open_page(reduced_motion="reduce")
    want(page, "video")
    say(page, SENTENCE)
    assert answer(page).locator("video").evaluate("video => video.paused && !video.autoplay")


@pytest.mark.slow
def test_no_model_swings_for_those_who_want_calm(open_page, scene):
    page = open_page(with_3d=True, reduced_motion="reduce")
    want(page, "mesh")
    attach(page, NAMES["mesh"], scene["shape"])
    expect(page.get_by_test_id("chip-mesh")).to_be_visible()
    say(page, SENTENCE)
    bubble = answer(page)
    for viewer in VIEWERS:
        page.locator(viewer).scroll_into_view_if_needed()
        wait_for(page, f"document.querySelector('{viewer}').loaded")
        assert page.evaluate(f"document.querySelector('{viewer}').turntableRotation") == 0
    turned(page, "180deg", "뒤에서 본 모습")
    bubble.get_by_role("button", name="3D 앞에서 보기").click()
    expect(bubble.locator(".side")).to_be_hidden()
    assert (
        abs(page.evaluate("document.querySelector('.answer model-viewer').getCameraOrbit().theta"))
        < 0.01
    )


@pytest.mark.slow
def test_models_swing_once_until_they_are_held(open_page, scene):
    page = open_page(with_3d=True)
    want(page, "mesh")
    attach(page, NAMES["mesh"], scene["shape"])
    expect(page.get_by_test_id("chip-mesh")).to_be_visible()
    say(page, SENTENCE)
    answer(page)
    for viewer in VIEWERS:
        page.locator(viewer).scroll_into_view_if_needed()
        wait_for(page, f"document.querySelector('{viewer}')?.loaded")
    wait_for(page, "document.querySelector('.answer model-viewer').turntableRotation != 0")
    wait_for(page, "document.querySelector('.answer model-viewer').turntableRotation == 0")
    reload(
        page
    )  # the models of a conversation that is opened again swing too; one that is held stays
    wait_for(page, "(document.querySelector('.answer model-viewer')?.turntableRotation ?? 0) != 0")
    page.locator(".answer model-viewer").dispatch_event(
        "pointerdown"
    )  # before its 3.6 seconds are over
    wait_for(page, "document.querySelector('.answer model-viewer').turntableRotation == 0")


def turned(page, angle, note):
    """Turns the 3D model, as a drag does; the page says which side is seen."""
    page.locator(".answer model-viewer").evaluate(
        "(viewer, angle) => viewer.setAttribute('camera-orbit', `${angle} 75deg 105%`)", angle
    )
    expect(page.locator(".answer .tile .side")).to_contain_text(note)


@pytest.mark.slow
def test_axe_finds_nothing_serious(open_page):
    page = open_page(with_3d=True, viewport={"width": 1100, "height": 800}, reduced_motion="reduce")
    page.evaluate(AXE.read_text())
    assert serious(page) == []
    refuse_key(page, times=1)
    say(page, SENTENCE)
    answer(page, "error")
    assert serious(page) == []
    want(page, "text", "image", "audio", "video", "mesh")
    page.get_by_role("button", name="다시 묻기", exact=True).click()
    answer(page)
    wait_for(page, "document.querySelector('model-viewer').loaded")
    page.locator(".talk summary").click()
    for scheme, width in (("light", 1100), ("dark", 1100), ("dark", 360)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 800})
        assert serious(page) == [], (scheme, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="설정").click()
        assert serious(page) == [], (scheme, width, "settings")
        page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, 200)")
    page.get_by_role("button", name="대화 목록").press("Enter")
    assert serious(page) == []
    page.keyboard.press("Escape")
    assert (
        page.evaluate("scrollY") == 200
    )  # the focus in the header, which is in sight, scrolls nothing


def compare(page):
    page.get_by_role("button", name="설정").click()
    page.get_by_role("switch", name="두 모델").check()
    page.get_by_role("button", name="확인").click()


def pictures(page):
    return [image.get_attribute("src") for image in page.locator(".answer img").all()]


def test_two_models_answer_side_by_side_and_go_on_from_their_own_answers(open_page, two):
    page = open_page(to=two, viewport={"width": 1100, "height": 800})
    compare(page)
    want(page, "text", "image", "audio")
    asked = []
    page.on(
        "request",
        lambda request: (
            asked.append(request.post_data_json) if request.url.endswith("completions") else None
        ),
    )
    say(page, SENTENCE)
    for nth, model in enumerate(("onnuri-laptop", "wild-model")):
        answer(page, nth=nth)
        column = page.get_by_role("region", name=f"답 1, {model}")
        expect(column.get_by_role("heading", name=model)).to_be_visible()
        expect(column.get_by_test_id("answer-text")).to_contain_text("빨간")
        expect(column.get_by_test_id("usage")).to_contain_text("그림 31")
        with page.expect_download() as download:
            column.get_by_test_id("media-audio").get_by_role("button", name="내려받기").click()
        assert download.value.path().stat().st_size > 10_000
    left, right = (page.get_by_test_id("answer").nth(k).bounding_box() for k in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    expect(page.locator("#announcer")).to_contain_text("wild-model, ")
    reload(page)
    shown = pictures(page)
    assert len(set(shown)) == 2
    say(page, "몇 개가 있나요?")
    answer(page, nth=2), answer(page, nth=3)
    assert [body["model"] for body in asked] == ["onnuri-laptop", "wild-model"] * 2 and {
        body["seed"] for body in asked
    } == {1}
    assert [body["messages"][1]["images"][0]["image_url"]["url"] for body in asked[2:]] == shown


def test_of_models_that_answer_together_the_page_says_which_one_did(open_page, together):
    page = open_page(to=together, viewport={"width": 1100, "height": 800})
    want(page, "text", "image")
    for said, model in (("사과", "drawn-things"), (SENTENCE, "onnuri-laptop")):
        say(page, said)
        expect(answer(page).get_by_text(model, exact=True)).to_be_visible()
    compare(page)
    say(page, SENTENCE)
    for model in ("onnuri-laptop", "drawn-things"):  # each alone, and not both together
        expect(page.get_by_role("region", name=f"답 3, {model}")).to_be_visible()


def test_votes_are_kept_changed_taken_back_and_given_as_a_file(open_page, two):
    page = open_page(to=two)
    page.evaluate('localStorage[\'onnuri-settings\'] = \'{"compare": true, "outputs": ["image"]}\'')
    reload(page)
    for said in (SENTENCE, "보라 별이 튄다", "작은 파란 원뿔이 있다"):
        say(page, said)
        expect(page.get_by_role("group", name="어느 답이 나은가요?")).to_have_count(
            page.get_by_test_id("question").count()
        )
    for nth, choices in enumerate(
        (["왼쪽이 낫다", "오른쪽이 낫다"], ["같다"], ["왼쪽이 낫다", "왼쪽이 낫다"])
    ):
        for choice in choices:
            page.get_by_test_id("pair").nth(nth).get_by_role("button", name=choice).press("Enter")
    reload(page)
    expect(page.locator(".vote [aria-pressed=true]")).to_have_text(
        ["오른쪽이 낫다", "같다"], use_inner_text=True
    )
    page.get_by_role("button", name="새 대화").click()
    page.get_by_role("button", name="설정").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="투표 내려받기 (2)").click()
    first, second = json.loads(download.value.path().read_text())["votes"]
    assert (first["vote"], first["better"], second["vote"], second["better"]) == (
        "right",
        "wild-model",
        "same",
        None,
    )
    assert first["question"] == {"text": SENTENCE, "media": []} and first["asked"][
        "modalities"
    ] == ["image"]
    assert [a["model"] for a in first["answers"]] == ["onnuri-laptop", "wild-model"] and isinstance(
        first["asked"]["seed"], int
    )
    assert all(
        a["media"] == ["image"] and a["seconds"] > 0 and a["usage"]["completion_tokens"] == 31
        for a in first["answers"]
    )


def test_one_stop_ends_both_answers_and_one_error_only_its_own(open_page, two):
    page = open_page(to=two)
    compare(page)
    quicken = say_on_a_slow_line(page)
    expect(page.get_by_test_id("answer-text").nth(1)).not_to_be_empty()
    page.get_by_role("button", name="멈추기").click()
    answer(page, "stopped", 0), answer(page, "stopped", 1)
    quicken()

    def refuse(route):
        refused = route.request.post_data_json["model"] == "wild-model"
        return route.fulfill(status=429, json={"error": BUSY}) if refused else route.continue_()

    page.route("**/v1/chat/completions", refuse)
    say(page, "보라 별이 튄다")
    expect(answer(page, "error", 3).get_by_role("alert")).to_contain_text(
        "지금 묻는 사람이 너무 많습니다"
    )
    expect(answer(page, "done", 2).get_by_test_id("answer-text")).to_contain_text("별")
    expect(page.get_by_role("group", name="어느 답이 나은가요?")).to_have_count(
        0
    )  # half of an answer is not compared


def test_two_voices_do_not_speak_at_once(page):
    heard = page.evaluate("""async () => {
        const { Player } = await import("./player.js");
        const player = new Player(), heard = [];
        player.push = (samples) => heard.push(samples);
        const [left, right] = player.inTurn(2);
        right.push("right 1"); left.push("left 1"); right.push("right 2"); right.end(); left.push("left 2"); left.end();
        const [first, second] = player.inTurn(2);
        second.push("never"); player.stop(); first.end(); second.end();
        return heard;
    }""")
    assert heard == ["left 1", "left 2", "right 1", "right 2"]


def test_one_of_two_models_is_chosen_and_of_one_there_is_no_choice(open_page, two):
    page = open_page(to=two)
    page.get_by_role("button", name="설정").click()
    page.get_by_label("답할 모델").select_option("wild-model")
    page.get_by_role("button", name="확인").click()
    reload(page)
    assert body_sent(page, lambda: say(page, SENTENCE))["model"] == "wild-model"
    expect(answer(page)).to_contain_text("wild-model")
    expect(page.get_by_test_id("pair")).to_have_count(0)
    alone = open_page()
    alone.get_by_role("button", name="설정").click()
    expect(alone.get_by_label("시드")).to_be_visible()
    expect(alone.get_by_role("switch")).to_have_count(0)


@pytest.mark.slow
def test_axe_finds_nothing_in_a_comparison(open_page, two):
    page = open_page(to=two, viewport={"width": 1100, "height": 800}, reduced_motion="reduce")
    page.evaluate(AXE.read_text())
    compare(page)
    want(page, "text", "image", "audio", "video", "mesh")
    for nth, said in enumerate((SENTENCE, "보라 별이 튄다")):
        say(page, said)
        page.get_by_test_id("pair").nth(nth).get_by_role("button", name="같다").click()
    for scheme, width in (("light", 1100), ("dark", 1100), ("dark", 360)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 800})
        assert violations(page, but="model-viewer") == [], (
            scheme,
            width,
        )  # whose regions all have one name
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="설정").click()
        assert violations(page) == [], (scheme, width, "settings")
        page.keyboard.press("Escape")
    upper, lower = (page.get_by_test_id("answer").nth(k).bounding_box() for k in (0, 1))
    assert upper["x"] == lower["x"] and upper["y"] + upper["height"] < lower["y"]
    expect(page.get_by_role("button", name="위가 낫다")).to_have_count(2)


def serious(page):
    return [v[:2] for v in violations(page) if v[2] in ("serious", "critical")]


def violations(page, but=""):
    exclude = [but] if but else []
    found = page.evaluate(
        "exclude => axe.run({exclude}, {resultTypes: ['violations']}).then(result => result.violations)",
        exclude,
    )
    return [(v["id"], v["nodes"][0]["html"], v["impact"]) for v in found]


def test_the_api_is_described_without_a_network(open_page):
    page = open_page("/docs")
    for route in ("/v1/chat/completions", "/v1/videos/{id}/content", "/v1/meshes"):
        expect(page.locator(f"[data-path='{route}']").first).to_be_visible()
