/* What outlives a reload: settings in localStorage; conversations, their turns and votes in IndexedDB, each in a database
   of its own, as a second store in one would wait for tabs that have the older in use. Knows not what is in them.
   Where the browser keeps nothing (private windows), the page works until it is closed. Of a turn that two tabs write,
   what was written last stays. */

const SETTINGS = "onnuri-settings";
const OPEN = "onnuri-open";
const DATABASES = { turns: "onnuri", votes: "onnuri-votes", talks: "onnuri-talks" };

export function loadSettings(defaults) {
  try {
    return { ...defaults, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return { ...defaults };
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch { /* see above */ }
}

/** The id of the conversation that this tab has open; of a new tab, null. */
export function loadOpen() {
  try {
    return sessionStorage.getItem(OPEN);
  } catch {
    return null;
  }
}

export function saveOpen(id) {
  try {
    if (id) sessionStorage.setItem(OPEN, id);
    else sessionStorage.removeItem(OPEN);
  } catch { /* see above */ }
}

const all = (name, range) => transact(name, "readonly", (store) => store.getAll(range)).then((found) => found ?? []);
const put = (name, value, key) => transact(name, "readwrite", (store) => store.put(value, key));
const drop = (name, key) => transact(name, "readwrite", (store) => store.delete(key));

/** Keys of a conversation's turns are [id, index]; an array sorts after every number, so [] ends them. */
const turnsOf = (id, from = 0) => IDBKeyRange.bound([id, from], [id, []]);
const unlisted = () => IDBKeyRange.upperBound(Infinity); // of the one conversation before there was a list: numbers

export const loadTalks = () => all("talks");
export const saveTalk = (talk) => put("talks", talk, talk.id);
export const dropTalk = (id) => Promise.all([drop("talks", id), drop("turns", turnsOf(id))]);
export const loadTurns = (id) => all("turns", turnsOf(id));
export const saveTurn = (id, index, turn) => put("turns", turn, [id, index]);
export const dropTurns = (id, from) => drop("turns", turnsOf(id, from));
export const loadUnlisted = () => all("turns", unlisted());
export const dropUnlisted = () => drop("turns", unlisted());
export const loadVotes = () => all("votes");
export const saveVote = (vote, id) => put("votes", vote, id);
export const dropVote = (id) => drop("votes", id);

const opened = {};

/** One request in a transaction of its own; a write is over when it is kept. */
async function transact(name, mode, work) {
  try {
    const database = await (opened[name] ??= open(name));
    const transaction = database.transaction(name, mode);
    const kept = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const found = promised(work(transaction.objectStore(name)));
    transaction.commit(); // at once: a page that is left a moment later takes back what waits for its next turn
    const [result] = await Promise.all([found, kept]);
    return result;
  } catch {
    return undefined;
  }
}

function open(name) {
  const request = indexedDB.open(DATABASES[name], 1);
  request.onupgradeneeded = () => request.result.createObjectStore(name);
  return promised(request);
}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
