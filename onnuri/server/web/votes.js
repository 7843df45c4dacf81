/* Which of two answers was better, in the user's eyes: kept in this browser beyond the conversation, and given as a file.
   Knows no element and no server. */

import { dataUri, download } from "./media.js";
import { dropVote, loadVotes, saveVote } from "./store.js";

export const CHOICES = ["left", "same", "right"];
const votes = new Map(); // by the id of the pair of answers

export async function startVotes() {
  for (const vote of await loadVotes()) votes.set(vote.id, vote);
}

export const countVotes = () => votes.size;
export const voteOn = (pair) => votes.get(pair.id)?.vote ?? null;

/** Keeps a vote in place of an earlier one; the same a second time takes it back. */
export function vote(pair, question, choice) {
  if (voteOn(pair) === choice) {
    votes.delete(pair.id);
    return dropVote(pair.id);
  }
  votes.set(pair.id, record(pair, question, choice));
  return saveVote(votes.get(pair.id), pair.id);
}

/** Of media the kinds only: a file of many votes stays small, and with a seed they can be made again. */
function record({ id, asked, answers }, question, choice) {
  const better = { left: answers[0].model, right: answers[1].model, same: null }[choice];
  return { id, time: new Date().toISOString(), vote: choice, better, question: { text: question.text, media: kindsOf(question) },
    asked, answers: answers.map(recordAnswer) };
}

function recordAnswer(answer) {
  const { model, text, transcript, firstSeconds, seconds, usage } = answer;
  return { model, text, transcript, media: kindsOf(answer), first_seconds: firstSeconds, seconds, usage };
}

const kindsOf = ({ media }) => media.map(({ kind }) => kind);

/** Saves all votes as a JSON file; those of other tabs are in the store only. */
export async function downloadVotes() {
  await startVotes();
  const all = [...votes.values()].sort((a, b) => (a.time < b.time ? -1 : 1));
  const file = new Blob([`${JSON.stringify({ format: 1, votes: all }, null, 2)}\n`], { type: "application/json" });
  download({ url: await dataUri(file), name: "onnuri-votes.json" });
}
