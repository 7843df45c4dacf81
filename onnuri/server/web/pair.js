/* Two models' answers to one question, side by side, and the vote beneath them. Knows no server, and not where votes are
   kept: `on.vote` takes one and `on.voted` tells it. */

import { AnswerBubble, element, wordButton } from "./view.js";
import { CHOICES } from "./votes.js";
import { label, say } from "./words.js";

export class PairBubble {
  #turn; #on;
  #vote = element("div", { className: "vote", hidden: true });

  /** `number` tells a pair's regions from another's. */
  constructor(turn, about, on, number) {
    [this.#turn, this.#on] = [turn, on];
    this.columns = turn.answers.map((answer) => new AnswerBubble(answer, about, { ...on, ended: () => this.#ask() }, number));
    this.#vote.setAttribute("role", "group");
    label(this.#vote, "vote");
    const again = element("p", { className: "doings redo" }, wordButton("another", {}, () => on.another()));
    this.root = element("li", { className: "pair" }, ...this.columns.map((column) => column.root), this.#vote, again);
    this.root.dataset.testid = "pair";
  }

  /** Asks which is better, once both answers are whole: half of one cannot be compared. */
  #ask() {
    if (this.#turn.answers.some(({ error, stopped }) => error || stopped)) return;
    this.#vote.replaceChildren(say(element("p"), "vote"), ...CHOICES.map((choice) => this.#button(choice)));
    this.#vote.hidden = false;
    this.#press();
  }

  #button(choice) {
    const onclick = () => { this.#on.vote(choice); this.#press(); };
    const made = element("button", { type: "button", className: "toggle", onclick }, ...sides(choice));
    made.dataset.choice = choice;
    return made;
  }

  #press() {
    for (const button of this.#vote.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.dataset.choice === this.#on.voted());
    }
  }
}

/** On a phone the left answer is the upper one; the style shows one of the two. */
function sides(choice) {
  if (choice === "same") return [say(element("span"), "vote_same")];
  return ["wide", "narrow"].map((className) => say(element("span", { className }), `vote_${choice}_${className}`));
}
