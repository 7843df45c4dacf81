"""This module says a scene in the Korean of people."""

from __future__ import annotations

from typing import Any

from onnuri.data.korean import final_of
from onnuri.modality import Language
from onnuri.toyworld.scene import INVERSE
from onnuri.toyworld.synonyms import COLORS, KO_MOTIONS, Motion
from onnuri.toyworld.wordings_speaker import Speaker, other_colors
from onnuri.toyworld.wordings_tables import BODIES, HELD_BODIES, REQUESTS
from onnuri.toyworld.words import COLOR, COLOR_NOUN, SOLID, josa

SINGLE: tuple[str, ...] = ("{A이} {v}", "{A은} {v}")
"""bodies of sentences about one thing"""


_SIDES: dict[str, tuple[str, ...]] = {
    "left_of": ("왼쪽", "왼편", "좌측"),
    "right_of": ("오른쪽", "오른편", "우측"),
    "above": ("위", "위쪽", "윗쪽"),
    "below": ("아래", "아래쪽", "밑"),
}


_BARE_SIDES: dict[str, tuple[str, ...]] = {
    "left_of": ("왼쪽", "왼편", "좌측"),
    "right_of": ("오른쪽", "오른편", "우측"),
    "above": ("위", "위쪽"),
    "below": ("아래", "아래쪽", "밑"),
}


_VERY: tuple[str, ...] = ("아주", "매우", "정말", "되게", "무척")


_COUNTS: dict[int, tuple[str, ...]] = {
    2: ("물체 두 개", "두 개의 물체", "도형 두 개", "물체 2개"),
    3: ("물체 세 개", "세 개의 물체", "도형 세 개", "물체 3개"),
}


GROWN: dict[str, tuple[str, ...]] = {
    "small": ("작게", "조그맣게", "아주 작게", "조그마하게", "소형으로", "크기는 작게"),
    "medium": (
        "중간 크기로",
        "보통 크기로",
        "적당한 크기로",
        "크기는 중간",
        "중형으로",
        "크기는 중간쯤",
    ),
    "large": ("크게", "커다랗게", "아주 크게", "큼직하게", "대형으로", "크기는 크게"),
}
"""adverbs for the size in which a thing is to be drawn"""


FRAMED_KO = ("{}", "{}", "{} 그려줘", "{} 보여줘", "{} 그려 주세요", "{} 만들어줘")
"""frames around names whose attributes follow in a second sentence"""


class Korean(Speaker):
    """A Korean words one scene in Korean."""

    language: Language = "ko"

    def sentence(self, held_out: bool) -> str:
        """Return a sentence that states the scene, in a wording of training or one held out."""
        relations = list(self.scene.stated)
        special = "" if held_out else self.seldom()
        if special:
            return special
        if not relations:
            wording = self.wording(held_out, ("noun", "noun", "clause"))
            if wording.kind == "noun":
                return in_frame(
                    wording.frame if held_out else self.plainly(wording.frame), self.thing(0, True)
                )
            return self.ended(self.one(SINGLE), wording.frame, (0, None, None), True)
        wording = self.wording(held_out)
        rest = relations[1:]
        bodies = self.trained_bodies("clause")
        if wording.kind == "noun":
            phrase = self.filled(wording.body, *relations[0], "")
            for clause in rest:
                body = self.one(
                    [b for b in BODIES["ko"]["noun"][:3] if ("ko", b) not in HELD_BODIES]
                    or ["{B} {p}에 있는 {A}"]
                )
                phrase = (
                    f"{josa(phrase, '와/과')} {self.filled(body, *clause, '')}"
                    if _hangul(phrase)
                    else f"{phrase}, {self.filled(body, *clause, '')}"
                )
            return in_frame(
                self.request()
                if not rest and not held_out and self.chance(0.35)
                else wording.frame,
                phrase,
            )
        clauses = [(wording.body, relations[0]), *((self.one(bodies), c) for c in rest)]
        return " ".join(
            self.ended(body, wording.frame, clause, k == len(clauses) - 1)
            for k, (body, clause) in enumerate(clauses)
        )

    def ended(self, body: str, frame: str, clause: tuple[int, Any, Any], last: bool) -> str:
        """Return a clause (thing, relation, other thing) in a body, whose verb has the ending that
        its place in the sentence asks for."""
        i = clause[0]
        motion = (
            self.moving(i)
            if i not in self.named
            and body in ("{B} {p}에 {A이} {v}", "{A이} {B} {p}에 {v}", *SINGLE)
            else "still"
        )
        verb: Motion = self.verb(motion)
        has_slot = "{}" in frame
        form = "linking" if not last else "modifying" if has_slot else frame
        self.spoken = motion != "still"
        if motion != "still" and "{p}에 " in body:
            body = body.replace("{p}에 ", "{p}에서 ")
        text = self.filled(body, *clause, getattr(verb, form))
        return frame.format(text) if has_slot and last else text

    def verb(self, motion: str) -> Motion:
        """Return the forms of a verb for a motion."""
        known, _ = KO_MOTIONS[motion]
        return known[0] if self.own or (motion == "still" and self.chance(0.6)) else self.one(known)

    def filled(self, body: str, i: int, relation: str | None, j: int | None, verb: str) -> str:
        """Return a body with its names and places filled in, for thing `i` in a `relation` to thing
        `j`."""
        verb_says_motion = bool(verb) and getattr(self, "spoken", False)
        self.spoken = False
        name_order = (
            [("A", i), ("B", j)]
            if j is None or body.find("{A") < body.find("{B")
            else [("B", j), ("A", i)]
        )
        names: dict[str, str] = {}
        for letter, index in name_order:
            if index is not None:
                names[letter] = self.thing(index, not (letter == "A" and verb_says_motion))
        later_names = {"a": self.again(i), "b": self.again(j) if j is not None else ""}
        for letter, name in {**names, **later_names}.items():
            if name:
                names |= {
                    letter: name,
                    f"{letter}이": josa(name, "이/가"),
                    f"{letter}은": josa(name, "은/는"),
                    f"{letter}와": self.joined(name),
                    f"{letter}의": f"{name}의" if self.chance(0.5) else name,
                }
        if relation is not None:
            place = self.place(relation)
            names |= {
                "p": place,
                "q": self.place(INVERSE[relation]),
                "oa이": self.the_one(i),
                "그": self.one(("그", "그", "그", "그거", "그것", "걔")),
                "la": self.one(_BARE_SIDES[relation]),
                "lb": self.one(_BARE_SIDES[INVERSE[relation]]),
                "sa": self.one(_SIDES[relation]),
                "sb": self.one(_SIDES[INVERSE[relation]]),
                "n": self.one(_COUNTS[len(self.scene.things)]),
            }
            body = body.replace("그 {p}", "{그} {p}")
            if "그 {q}" in body or "{q}에 " in body:
                names["q"] = self.one(_SIDES[INVERSE[relation]])
        return body.format(**names, v=verb)

    def thing(self, index: int, modify: bool) -> str:
        """Return the noun phrase of a thing, in short if it was named before; `modify` puts its
        motion before it."""
        if index in self.named:
            return self.again(index)
        self.named.add(index)
        size, color, solid = self.attribute_words(index)
        if size and self.chance(0.08):
            size = f"{self.one(_VERY)} {size}"
        if color and self.chance(0.08):
            color = self.one(
                (self.thing_en("color", index), COLOR["en"][self.scene.things[index].color])
            )
        order = [color, size] if self.chance(0.12) else [size, color]
        name = " ".join(w for w in (*order, solid) if w)
        if self.chance(0.06):
            thing = self.scene.things[index]
            if self.chance(0.5):
                other = self.one([COLOR["ko"][k] for k in other_colors(thing)])
                name = self.one(
                    (
                        f"{other} 것 말고 {name}",
                        f"{other} {josa(solid, '이/가')} 아니라 {name}",
                        f"{other} {solid} 말고 {name}",
                    )
                )
            else:
                other = self.one([s for k, s in SOLID["ko"].items() if k != thing.solid])
                name = self.one(
                    (
                        f"{other} 말고 {name}",
                        f"{josa(other, '이/가')} 아니라 {name}",
                        f"{other} 없이 {name}",
                    )
                )
        elif color and self.chance(0.03):
            name = f"{size} {solid}({COLOR_NOUN[self.scene.things[index].color]})".strip()
        elif modify and self.chance(0.06):
            name = f"{name} 하나"
        if modify and self.moving(index) != "still":
            name = f"{self.verb(self.moving(index)).modifying} {name}"
        return name

    def joined(self, name: str) -> str:
        """Return a name with a random one of the particles for "and"."""
        return josa(name, self.one(("와/과", "와/과", "와/과", "이랑/랑", "하고/하고")))

    def the_one(self, index: int) -> str:
        """Return a thing as the subject: "the red one" if a colour identifies it, else its name."""
        if self.colors_differ() and self.chance(0.6):
            return f"{self.call(index, 'color')} {self.one(('게', '게', '것이', '거가', '쪽이'))}"
        return josa(self.again(index), "이/가")

    def two_of_a_kind(self) -> str:
        """Return a sentence for two things of one solid such as "공 두 개: 빨간 거 왼쪽, 파란 거 오른쪽"."""
        i, relation, j = self.pair()
        first, second = self.dressed(i), self.dressed(j)
        solid, places, inverse_places = (
            self.call(i, "solid"),
            _BARE_SIDES[relation],
            _BARE_SIDES[INVERSE[relation]],
        )
        pair_phrase = self.one(
            (f"{solid} 두 개", f"{solid} 2개", f"두 개의 {solid}", f"{solid} 둘")
        )
        a, b, thing = (
            self.one(places),
            self.one(inverse_places),
            self.one(("거", "것", "건", "게", solid)),
        )
        endings = self.one(("", "에", "에 있어", "에 그려줘", "에 있다"))
        pair_subject = josa(pair_phrase, "이/가")
        return self.one(
            (
                f"{pair_phrase}{self.one((': ', ', ', '. '))}"
                f"{first} {thing} {a}, {second} {thing} {b}",
                f"{pair_subject} 있는데 {first} {thing} {a}, {second} {thing} {b}{endings}",
                f"{pair_phrase}인데 {first} 건 {a}, {second} 건 {b}",
                f"{self.one(FRAMED_KO).format(pair_phrase)}. {first} {self.one(('게', '것이', '건'))} {josa(a, '이야/야')}",
                f"{first} {thing} {a}에 {second} {thing} {b}에 {pair_subject} 있다",
                f"{a} {first} {solid}, {b} {second} {solid}",
            )
        )

    def attributes_later(self) -> str:
        """Return a sentence such as "별이랑 상자, 별은 노란색 상자는 까만색이고 별이 위", or of one thing "별 하나, 색은
        노랑"."""
        solids = [self.call(k, "solid") for k in range(len(self.scene.things))]
        colors = [self.call(k, "color") for k in range(len(solids))]
        colors = [name if name.endswith(("색", "랑", "강")) else COLOR_NOUN[thing.color]
                  for name, thing in zip(colors, self.scene.things, strict=True)]  # fmt: skip
        if len(solids) == 1:
            size = self.call(0, "size") if self.sized[0] else ""
            color, colored = colors[0], josa(colors[0], "으로/로")
            if self.chance(0.5):  # as adverbs: "별 하나 노란색으로 작게 그려줘"
                grown = self.one(GROWN[self.scene.things[0].size]) if size else ""
                count = self.one(("", "", " 하나", " 하나만", " 한 개", " 한개만"))
                ways = f"{colored} {grown}" if self.chance(0.5) else f"{grown} {colored}"
                noun_phrase = (
                    f"{solids[0]}{count}" if count or self.chance(0.5) else josa(solids[0], "을/를")
                )
                return " ".join(f"{noun_phrase} {ways} {self.one(REQUESTS['ko']['verb'])}".split())
            name = f"{size} {solids[0]}{self.one(('', ' 하나'))}".strip()
            tails = (f", 색은 {color}", f". 색은 {color}", f", {colored}", f". {color}", f", {self.call(0, 'color')} 거",
                     f"인데 색이 {color}", f", 색깔은 {color}", f"인데 {color}")  # fmt: skip
            return name + self.one(tails)
        i, relation, j = self.pair()
        a, b = self.one(_BARE_SIDES[relation]), self.one(_BARE_SIDES[INVERSE[relation]])
        sizes = [self.call(k, "size") if self.sized[k] else "" for k in (i, j)]
        (x, y), (p, q) = (
            (solids[i], solids[j]),
            (f"{sizes[0]} {colors[i]}".strip(), f"{sizes[1]} {colors[j]}".strip()),
        )
        first, second = josa(x, "은/는"), josa(y, "은/는")
        both = self.one(FRAMED_KO).format(f"{self.joined(x)} {y}")
        place = self.place(relation)
        return self.one(
            (
                f"{both}. {first} {p}, {second} {q}이고 {josa(x, '이/가')} {a}",
                f"{both}. {first} {p} {a}에, {second} {q} {b}에",
                f"{y} {place}에 {x}. {first} {p} {second} {q}",
                f"{y} {place}에 {x}, {x} 색은 {p}, {y} 색은 {q}",
                f"{josa(x, '이/가')} {a}, {josa(y, '이/가')} {b}. {first} {p}, {second} {q}",
            )
        )

    def without_a_place(self) -> str:
        """Return a sentence that names the things but not where they are."""
        order = self.rng.permutation(len(self.scene.things))
        names = [self.thing(int(k), True) for k in order]
        if len(names) == 3:
            text = self.one(
                (
                    f"{names[0]}, {names[1]}, {names[2]}",
                    f"{self.joined(names[0])} {self.joined(names[1])} {names[2]}",
                )
            )
            return in_frame(self.asking(), text)
        first, second = names
        joins = [f"{self.joined(first)} {second}"] * 4
        joins += [
            f"{first}, {second}",
            f"{first} 그리고 {second}",
            f"{first} 하나 {second} 하나",
            f"{first} 하나랑 {second} 하나",
        ]
        if self.scene.stated[0][1] in ("left_of", "right_of"):
            joins += [f"{first} 옆에 {second}", f"{first} 옆에 있는 {second}"]
        return in_frame(self.asking(), self.one(joins))

    def asking(self) -> str:
        """Return a random frame around a noun phrase that training uses."""
        return self.request() if self.chance(0.4) else self.one(self.trained_frames("noun"))

    def placing(self) -> str:
        """Return a sentence that puts one thing beside another, such as "빨간 공을 파란 상자 위에 놔줘"."""
        i, relation, j = self.pair()
        a, b, place = self.thing(i, True), self.thing(j, True), self.place(relation)
        put = self.one(("놓아줘", "놔줘", "놔 주세요", "놓아 주세요", "두세요", "그려줘", "그려 주세요", "배치해 주세요", "놓자",
                        "올려줘", "세워 주세요", "배치", *REQUESTS["ko"]["verb"]))  # fmt: skip
        particle = self.one(("에", "에", "에다", "에다가"))
        wish = self.one(
            (
                "있게 그려줘",
                "있게 해줘",
                "있어야 해",
                "있으면 좋겠어",
                "있도록 그려 주세요",
                "있는 걸로",
                "있어",
            )
        )
        pronoun = self.one(("그", "그거", "그것", "걔", "거기"))
        first = self.one(("그리고", "두고", "놓고", "그려주고", "만들고"))
        return self.one(
            (
                f"{josa(a, '을/를')} {b} {place}{particle} {put}",
                f"{b} {place}{particle} {josa(a, '을/를')} {put}",
                f"{b} {place}{particle} {a} {self.one(('하나', '좀', '하나만'))} {put}",
                f"{josa(a, '이/가')} {b} {place}에 {wish}",
                f"{josa(a, '은/는')} {b} {place}에 {wish}",
                f"{josa(b, '을/를')} {first} {pronoun} {place}에 {josa(a, '을/를')} {put}",
                f"{b} 그리고 {pronoun} {place}에 {a} {put}",
                f"{josa(b, '이/가')} 있는데 {pronoun} {place}에 {josa(a, '이/가')} {wish}",
                f"{josa(a, '을/를')} {b} {place}에",
            )
        )

    def thing_en(self, what: str, index: int) -> str:
        """Return the English word for a thing's colour, as people mix it into Korean."""
        return self.one(COLORS["en"][self.scene.things[index].color].known[:2])

    def again(self, index: int) -> str:
        """Return a thing that was named before by colour and solid."""
        self.named.add(index)
        _, color, solid = self.attribute_words(index)
        name = f"{color} {solid}".strip()
        return self.one((f"그 {name}", name))

    def alike(self) -> str:
        """Return a sentence for as many things as the scene has, all like its first."""
        size, color, solid = self.attribute_words(0)
        if self.chance(0.2):
            size = color = ""
        name = " ".join(w for w in (size, color, solid) if w)
        number, native_number, digit = (
            ("세", "셋", 3) if len(self.scene.things) == 3 else ("두", "둘", 2)
        )
        phrase = self.one(
            (
                f"{name} {number} 개",
                f"{number} 개의 {name}",
                f"{name} {digit}개",
                f"똑같은 {name} {number} 개",
                f"{name} {number}개",
                f"{name} {native_number}",
                f"{name}들",
            )
        )
        if len(self.scene.things) == 2 and self.chance(0.08):
            one_more = self.one(
                ("하나랑 똑같은 거 하나 더", "하나, 똑같은 걸로 하나 더", "하나 더해서 둘")
            )
            return f"{name} {one_more}"
        frames = [f for f in self.trained_frames("noun") if "하나" not in f]
        request = self.request()
        return in_frame(
            request if "하나" not in request and self.chance(0.4) else self.one(frames), phrase
        )


def _hangul(word: str) -> bool:
    """Return whether a word ends in a Hangul syllable."""
    return bool(word) and "가" <= word[-1] <= "힣"


def in_frame(frame: str, phrase: str) -> str:
    """Return a phrase in a Korean frame, with the particle that its last syllable asks for."""
    for mark, pair in (("{을}", "을/를"), ("{이}", "이/가")):
        if mark in frame and phrase.endswith(")"):  # "별(노란색)"
            return frame.replace(mark, phrase)
        if mark in frame:
            return frame.replace(mark, josa(phrase, pair) if _hangul(phrase) else f"{phrase}를")
    ends_in_final = final_of(phrase) > 0
    return (
        frame.replace("{의}", f"{phrase}의")
        .replace("{이에요}", f"{phrase}이에요" if ends_in_final else f"{phrase}예요")
        .replace("{이다}", f"{phrase}이다" if ends_in_final else f"{phrase}다")
        .replace("{}", phrase)
    )
