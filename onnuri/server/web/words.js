/* Every string of the page, in Korean and English, and how it gets into an element and changes with the language.
   Knows no server and no conversation. */

export const LANGUAGES = ["ko", "en"];

const TABLE = {
  tagline: ["글, 그림, 소리, 동영상, 3D로 주고받는 대화", "A conversation in text, pictures, sound, video and 3D"],
  limits: ["이 작은 모델은 색칠한 입체의 세계만 압니다. 열 가지 입체(구, 정육면체, 원기둥, 원뿔, 도넛, 별, 십자가, 캡슐, 팔면체, 아치), 열 가지 색, 셋까지의 물체, 그 자리와 움직임입니다. 다른 것은 모릅니다.",
    "This small model knows a world of coloured solids only: ten solids (sphere, cube, cylinder, cone, torus, star, cross, capsule, octahedron, arch), ten colours, up to three things, where they are and how they move. It knows nothing else."],
  examples: ["이렇게 말해 보세요", "Try one of these"],
  conversation: ["대화", "Conversation"],
  you: ["나", "You"],
  answer: ["답", "Answer"],

  message: ["메시지", "Message"],
  placeholder: ["말하거나, 파일을 놓으세요", "Say something, or drop a file"],
  hint: ["Enter: 보내기 · Shift+Enter: 줄 바꾸기", "Enter sends · Shift+Enter begins a new line"],
  send_short: ["보내기", "Send"],
  stop_short: ["멈추기", "Stop"],
  attach_short: ["파일", "Files"],
  record_short: ["녹음", "Record"],
  record_stop_short: ["끝내기", "Stop"],
  camera_short: ["사진", "Photo"],
  send: ["보내기", "Send"],
  stop: ["멈추기", "Stop"],
  attach: ["파일 붙이기", "Attach files"],
  record: ["녹음: 말 녹음하기", "Record sound"],
  record_stop: ["녹음 끝내기", "Stop recording"],
  recording: ["녹음 중: 다시 누르면 끝납니다 (15초까지)", "Recording: press again to end it (15 seconds at most)"],
  camera: ["사진 찍기", "Take a photo"],
  camera_title: ["사진 찍기", "Take a picture"],
  shoot: ["찍기", "Shoot"],
  close: ["닫기", "Close"],
  attachments: ["붙인 파일", "Attachments"],
  remove: ["{name} 빼기", "Remove {name}"],
  drop: ["여기에 놓으면 붙습니다", "Drop to attach"],
  wanted: ["돌려받을 것", "Answer with"],

  text: ["글", "text"],
  image: ["그림", "picture"],
  audio: ["말", "speech"],
  video: ["동영상", "video"],
  mesh: ["3D", "3D"],
  waiting_image: ["그리는 중", "drawing"],
  waiting_audio: ["말을 고르는 중", "about to speak"],
  waiting_video: ["동영상을 만드는 중", "making a video"],
  waiting_mesh: ["3D를 빚는 중", "shaping in 3D"],
  speaking: ["말하는 중", "speaking"],
  download: ["{kind} 내려받기", "Save {kind}"],
  download_short: ["내려받기", "Save"],
  use: ["{kind} 붙이기: 다음 메시지에", "Attach {kind} to the next message"],
  use_short: ["붙이기", "Attach"],
  enlarge: ["{kind} 크게 보기", "Zoom into {kind}"],
  enlarge_short: ["크게", "Zoom"],
  enlarged: ["크게 보기", "Enlarged"],
  front: ["3D 앞에서 보기", "Front view of the 3D model"],
  front_short: ["앞에서", "Front"],
  no_3d: ["이 브라우저는 3D를 그리지 못합니다. 내려받아서 보세요.", "This browser cannot draw in 3D. Save the file to see it."],
  side_back: ["뒤에서 본 모습: 왼쪽과 오른쪽이 바뀌어 보입니다", "Seen from behind: left and right look swapped"],
  side_left: ["왼쪽에서 본 모습", "Seen from its left"],
  side_right: ["오른쪽에서 본 모습", "Seen from its right"],
  used: ["다음 메시지에 붙였습니다: {kind}", "Attached to the next message: {kind}"],

  stopped: ["멈췄습니다", "Stopped"],
  nothing: ["답이 비어 있습니다. 다르게 물어보세요.", "The answer is empty. Ask in another way."],
  again: ["다시 묻기", "Ask again"],
  another: ["다시 만들기", "Try again"],
  copy: ["복사", "Copy"],
  copied: ["복사했습니다", "Copied"],
  edit: ["고치기", "Edit"],
  edit_box: ["고친 메시지", "Edited message"],
  edit_lost: ["고쳐 보내면 이 아래의 대화는 지워집니다.", "Sending it again removes what came after it."],
  edit_send: ["고쳐 보내기", "Send again"],
  cancel: ["그만두기", "Cancel"],
  details: ["토큰과 시간", "Tokens and time"],
  reason: ["서버가 한 말", "What the server said"],
  failed: ["{kind}: 만들지 못했습니다. 다르게 물어보세요.", "{kind}: could not be made. Ask in another way."],
  usage: ["받은 토큰: {given} · 만든 토큰: {made} · 첫 토큰 {first}초 · 모두 {total}초",
    "tokens in: {given} · out: {made} · first token {first} s · total {total} s"],
  times: ["모두 {total}초", "total {total} s"],
  arrived: ["답이 왔습니다. {what}", "The answer is here. {what}"],
  announce_stopped: ["답을 멈췄습니다.", "The answer was stopped."],

  column: ["답 {number}, {model}", "Answer {number}, {model}"],
  vote: ["어느 답이 나은가요?", "Which answer is better?"],
  vote_left_wide: ["왼쪽이 낫다", "left is better"],
  vote_left_narrow: ["위가 낫다", "upper is better"],
  vote_right_wide: ["오른쪽이 낫다", "right is better"],
  vote_right_narrow: ["아래가 낫다", "lower is better"],
  vote_same: ["같다", "same"],

  error_network: ["서버에 닿지 않습니다. 서버가 도는지 보고 다시 물어보세요.", "The server cannot be reached. See whether it is running, then ask again."],
  error_cut: ["답이 끝나기 전에 연결이 끊겼습니다. 다시 물어보세요.", "The connection ended before the answer did. Ask again."],
  error_key: ["이 서버는 열쇠(API 키)가 있어야 답합니다. 열쇠를 넣어 주세요.", "This server answers with an API key only. Put yours in."],
  error_minute: ["이번 1분 동안 쓸 수 있는 만큼을 다 썼습니다. 잠시 뒤에 다시 물어보세요.",
    "You have used all that your key has for this minute. Ask again in a moment."],
  error_busy: ["지금 묻는 사람이 너무 많습니다. 잠시 뒤에 다시 물어보세요.", "Too many are asking just now. Ask again in a moment."],
  error_away: ["서버가 잠깐 자리를 비웠습니다. 잠시 뒤에 다시 물어보세요.", "The server is away for a moment. Ask again soon."],
  error_slow: ["답이 너무 오래 걸려 그만두었습니다. 더 적게 부탁하거나 다시 물어보세요.",
    "The answer took too long and was called off. Ask for less, or try again."],
  error_body: ["보낸 것이 모두 합쳐 너무 큽니다. 파일을 줄이거나 나누어 보내 주세요.",
    "All that was sent together is too large. Send fewer or smaller files."],
  error_server: ["서버에 잘못이 있습니다. 다시 물어보세요.", "Something is wrong in the server. Ask again."],
  error_other: ["서버가 이 물음을 받지 못했습니다. 붙인 파일이나 설정을 바꾸어 다시 물어보세요.",
    "The server did not take this question. Change its files or the settings and ask again."],
  error_file: ["{name}: {words}", "{name}: {words}"],
  error_kind: ["{name}: 읽을 수 없는 종류입니다. 그림, 소리, 동영상(MP4, GIF), 3D(GLB, OBJ, PLY, STL)를 주세요.",
    "{name}: not of a kind that is read. Give a picture, a sound, a video (MP4, GIF) or a mesh (GLB, OBJ, PLY, STL)."],
  error_large: ["{name}: 너무 큽니다. 모두 합쳐 {most} MB까지 보낼 수 있습니다.", "{name}: too large. All files together may have {most} MB."],
  error_read: ["{name}: 읽지 못했습니다.", "{name}: could not be read."],
  error_microphone: ["마이크를 쓸 수 없습니다. 브라우저에서 허락했는지 보세요.", "The microphone cannot be used. See whether the browser allows it."],
  error_camera: ["카메라를 쓸 수 없습니다. 브라우저에서 허락했는지 보세요.", "The camera cannot be used. See whether the browser allows it."],

  key_box: ["API 키", "API key"],
  key_use: ["이 열쇠로 다시 묻기", "Ask again with this key"],

  talks: ["대화 목록", "Conversations"],
  talks_open: ["대화 목록", "List of conversations"],
  talks_short: ["목록", "List"],
  no_talks: ["아직 대화가 없습니다. 대화는 이 브라우저에만 남습니다.", "No conversations yet. They are kept in this browser only."],
  talk_menu: ["{title}: 이름 바꾸기, 지우기", "{title}: rename, delete"],
  rename: ["이름 바꾸기", "Rename"],
  talk_title: ["대화의 이름", "Name of the conversation"],
  delete: ["지우기", "Delete"],
  delete_really: ["“{title}” 대화를 지울까요? 되돌릴 수 없습니다.", "Delete the conversation “{title}”? This cannot be undone."],

  fresh: ["새 대화", "New conversation"],
  fresh_short: ["새 대화", "New"],
  autoplay_short: ["소리", "Sound"],
  theme_short: ["밝기", "Theme"],
  settings_short: ["설정", "Settings"],
  autoplay: ["소리 바로 듣기", "Sound as it arrives"],
  other_language: ["English", "한국어"],
  theme: ["밝기: 밝게 또는 어둡게", "Theme: light or dark"],
  settings: ["설정", "Settings"],
  settings_language: ["답의 언어", "Language of answers"],
  auto: ["물은 언어로", "as asked"],
  korean: ["한국어", "Korean"],
  english: ["영어", "English"],
  seed: ["시드 (비우면 매번 다름)", "Seed (empty: another each time)"],
  temperature: ["온도 (0에서 5)", "Temperature (0 to 5)"],
  top_p: ["top_p (0에서 1)", "top_p (0 to 1)"],
  guidance: ["가이던스 (0에서 20, 1은 없음)", "Guidance (0 to 20; 1 is none)"],
  model_default: ["모델의 값", "the model's own"],
  key: ["API 키 (이 브라우저에만 남습니다)", "API key (kept in this browser only)"],
  reset: ["처음 값으로", "Reset"],
  done: ["확인", "Done"],
  compare: ["두 모델의 답을 나란히 보기", "Compare two models side by side"],
  model: ["답할 모델", "Model that answers"],
  votes: ["투표 내려받기 ({count})", "Download votes ({count})"],
  api: ["API 문서", "API documentation"],
};

let language = "en";

export const current = () => language;

export function setLanguage(code) {
  language = LANGUAGES.includes(code) ? code : "en";
  document.documentElement.lang = language;
  translate(document);
}

/** The string in the page's language. `{name}` takes a value; `@key` in a value is another string. */
export function word(key, values = {}) {
  const filled = TABLE[key][LANGUAGES.indexOf(language)].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  return filled.replace(/@(\w+)/g, (whole, other) => (other in TABLE ? word(other) : whole));
}

/** Puts a string into an element, which then follows the language. */
export function say(element, key, values = {}) {
  Object.assign(element.dataset, { words: key, values: JSON.stringify(values) });
  element.textContent = word(key, values);
  return element;
}

/** The same for an element's name, which is not seen but read out, and shown as its tooltip. */
export function label(element, key, values = {}) {
  Object.assign(element.dataset, { label: key, values: JSON.stringify(values) });
  element.setAttribute("aria-label", word(key, values));
  if (element.matches("button, a")) element.title = word(key, values);
  return element;
}

function translate(root) {
  for (const element of root.querySelectorAll("[data-words]")) say(element, element.dataset.words, valuesOf(element));
  for (const element of root.querySelectorAll("[data-label]")) label(element, element.dataset.label, valuesOf(element));
  for (const element of root.querySelectorAll("[data-hint]")) element.placeholder = word(element.dataset.hint);
}

const valuesOf = (element) => JSON.parse(element.dataset.values ?? "{}");

/** The language that a sentence is written in, for screen readers. */
export const languageOf = (text) => (/[ㄱ-ㆎ가-힣]/.test(text) ? "ko" : "en");
