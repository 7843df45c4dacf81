"""The report's words in Korean and English. Knows no figures."""

from __future__ import annotations

import re

from onnuri.errors import ConfigError
from onnuri.modality import Language

WORDS: dict[str, tuple[str, str]] = {
    # a plan
    "on": ("{title}: {gpus} {gpu}", "{title} on {gpus} {gpu}"),
    "on fewer": ("{title}: {gpu} {given}장 가운데 {gpus}장", "{title} on {gpus} of {given} {gpu}"),
    "ranges": ("괄호 안은 80 % 구간", "80 % ranges in brackets"),
    "layout": ("병렬화 구성", "layout"),
    "runnable": ("여기서 바로 실행됨", "runnable here"),
    "engine": ("필요한 엔진: {engine}", "needs {engine}"),
    "memory": ("GPU당 메모리", "memory a GPU"),
    "of capacity": ("/ {capacity} GiB", "of {capacity} GiB"),
    "too large": ("들어가지 않음", "does not fit"),
    "step": ("스텝", "step"),
    "hidden": ("겹쳐서 숨은 시간", "hidden behind it"),
    "exposed": ("드러난 시간", "exposed"),
    "gpu seconds": ("GPU 초/100만 토큰", "GPU seconds a million tokens"),
    "speed": ("속도", "speed"),
    "stage": ("단계", "stage"),
    "tokens": ("{sequence} 길이로 {tokens} 토큰", "{tokens} tokens in sequences of {sequence}"),
    "goodput": ("유효 학습 시간 비율", "goodput"),
    "failures": (
        "장애 간격 {hours}시간, 체크포인트 {every}마다",
        "a failure every {hours} h, a checkpoint every {every}",
    ),
    "days": ("일수", "days"),
    "d": ("일", "days"),
    "encoding": ("모달리티 인코딩", "encoding media"),
    "gpu hours": ("GPU 시간", "GPU hours"),
    "cost": ("비용", "cost"),
    "energy": ("전력량", "energy"),
    "loss": ("예상 손실", "expected loss"),
    "nats": ("nat/텍스트 토큰", "nats a text token"),
    "no law": (
        "매개변수보다 적은 토큰이라 어느 법칙도 맞지 않음",
        "unknown: no law holds for fewer tokens than parameters",
    ),
    "nine in ten": ("90 %가 {gib} GiB 이하", "9 in 10 below {gib} GiB"),
    "serving": ("서비스", "to serve"),
    "instance": (
        "인스턴스당 {gpus}장, 동시 사용자 {users}명, GPU당 {speed} 토큰/s, KV {kv} KB/토큰, 100만 토큰 {usd}",
        "{gpus} GPU(s) an instance for {users} users, {speed} tokens/s/GPU, KV {kv} KB a token, {usd} a million tokens",
    ),
    "media": ("모달리티", "media"),
    "in time": (
        "{tokens} 토큰을 {days}일 안에 배울 확률",
        "probability of {tokens} tokens in {days} days",
    ),
    "in budget": (
        "{tokens} 토큰이 ${usd} 안에 끝날 확률",
        "probability of {tokens} tokens for ${usd}",
    ),
    "evidence": ("근거", "evidence"),
    "notes": ("주의", "notes"),
    "search": (
        "병렬화 구성 {layouts}가지를 {seconds:.1f}초에 탐색",
        "{layouts} layouts judged in {seconds:.1f} s",
    ),
    "searching": ("병렬화 구성 탐색 중", "searching layouts"),
    "searching on": (
        "병렬화 구성 탐색 중: GPU {gpus}장, 지금까지 가장 좋은 것 {best}장",
        "searching layouts: {gpus} GPUs, best so far {best}",
    ),
    "first": ("먼저", "first"),
    "side here": ("여기서 실행", "runnable here"),
    "side other": ("{engine} 사용", "with {engine}"),
    "side": (
        "{speed}, MFU {mfu}, {stage} 단계 {days}, 메모리 {gib} GiB; {layout}",
        "{speed}, MFU {mfu}, {stage} in {days}, {gib} GiB; {layout}",
    ),
    "recomputes more than it must": ("필요 없이 더 재계산", "recomputes more than it must"),
    "slower before data ranks talk": (
        "데이터 병렬 통신 전에 이미 더 느림",
        "slower before data ranks talk",
    ),
    "too much memory": ("메모리 부족", "too much memory"),
    "slower": ("더 느림", "slower"),
    "lost": ("나머지의 탈락 이유", "why the rest lost"),
    "slower by": ("{times:.2f}배 느림: {because}", "{times:.2f} times slower: {because}"),
    "fastest": ("가장 빠름", "fastest"),
    "every": ("체크포인트 간격, 분", "minutes between checkpoints"),
    "none": ("알 수 없음", "unknown"),
    "as fast": ("1위와 같은 속도", "as fast as the fastest"),
    "day": ("{count}일", "{count} d"),
    "hour": ("{count}시간", "{count} h"),
    "minute": ("{count}분", "{count} min"),
    "second": ("{count}초", "{count} s"),
    # the verdict
    "fits?": ("GPU에 들어가나", "fits"),
    "fits": (
        "들어감: GPU당 {capacity} GiB 가운데 {memory}, 확률 {odds}",
        "yes: {memory} of {capacity} GiB a GPU, {odds} likely",
    ),
    "fits not": (
        "들어가지 않음: GPU당 {capacity} GiB인데 {memory} 필요, 들어갈 확률 {odds}",
        "no: {memory} a GPU that has {capacity} GiB, {odds} likely to fit",
    ),
    "tokens trained": ("학습하는 토큰", "tokens trained"),
    "until day": (" ({days}일 동안)", " in {days} days"),
    "until usd": (" (${usd}로)", " for ${usd}"),
    "how likely": ("가능성", "how likely"),
    "limited by": ("가장 큰 제약", "limited by"),
    "limit sentence": ("{limit} (시간의 쓰임: {hours})", "{limit} (the hours go to: {hours})"),
    "limit memory": ("메모리", "memory"),
    "limit price": ("가격", "price"),
    "limit compute": ("연산", "compute"),
    "limit network": ("네트워크", "network"),
    "limit bandwidth": ("메모리 대역폭", "memory bandwidth"),
    "limit bubble": ("파이프라인 버블", "pipeline bubble"),
    "limit launch": ("커널 실행", "kernel launches"),
    "limit imbalance": ("전문가 쏠림", "router imbalance"),
    "limit crowd": ("큰 클러스터의 손실", "losses of a large cluster"),
    "limit failures": ("장애와 체크포인트", "failures and checkpoints"),
    "limit recomputation": ("메모리가 모자라 하는 재계산", "recomputation for lack of memory"),
    "limit other hours": (
        "평가, 멈춤, 다시 시작한 학습 (가정)",
        "evaluation, stalls, runs begun again (assumed)",
    ),
    "fewest GPUs": ("필요한 GPU 수", "fewest GPUs"),
    "fewest": (
        "{days}일 안에 끝내는 가장 적은 수: {gpu} {gpus}장",
        "{gpus} {gpu} train all of them in {days} days",
    ),
    "fewer": (" ({gpus}장: {took})", " ({gpus}: {took})"),
    "less takes": ("{days}일", "{days} days"),
    "less fits not": ("들어가지 않음", "nothing fits"),
    "not monotone": (
        "; 시도한 수 가운데 GPU가 많은데 더 느린 것이 있어, 더 적은 수로 될 수도 있음",
        "; of the counts tried, some of more GPUs took longer, so fewer may do",
    ),
    "limits of latency": ("지연 시간 제한", "latency"),
    "demand": ("입력 {isl}, 출력 {osl} 토큰{limits}", "{isl} tokens in, {osl} out{limits}"),
    "first token": ("첫 토큰 {time} 이하", "first token within {time}"),
    "each token": ("토큰당 {time} 이하", "each token within {time}"),
    "limited": (
        "인스턴스당 {gpus}장, 동시 {users}명, TTFT {ttft}, TPOT {tpot}, GPU당 {speed} 토큰/s{usd}",
        "{gpus} GPU(s) an instance for {users} at once, TTFT {ttft}, TPOT {tpot}, {speed} tokens/s/GPU{usd}",
    ),
    "usd input": ("입력 100만 토큰 {usd}", "{usd} a million input tokens"),
    "usd output": ("출력 100만 토큰 {usd}", "{usd} a million output tokens"),
    "both met": ("; 지킬 확률 {odds}", "; {odds} likely to be met"),
    "cannot be met": (
        "지킬 수 없음 ({limit}). 가능한 것: {figures}",
        "cannot be met ({limit}). What can: {figures}",
    ),
    # the largest model
    "largest": (
        "{gpu} {gpus}장으로 {days:g}일 안에 끝까지 학습하는 가장 큰 모델",
        "the largest models that {gpus} {gpu} train fully in {days:g} days",
    ),
    "largest one": ("가장 큰 모델", "the largest"),
    "largest verdict": (
        "{title}: {tokens} 토큰, {days}일, 확률 {odds}, {usd}, 예상 손실 {loss}; 가장 큰 제약: {limit}",
        "{title}: {tokens} tokens in {days} days, {odds} likely, {usd}, expected loss {loss}; limited by {limit}",
    ),
    "largest tokens": ("크기마다 {tokens} 토큰", "{tokens} tokens for every size"),
    "largest optimal": (
        "규칙으로 만든 크기는 밀집 환산 매개변수당 20 토큰, 시스템은 각자의 토큰",
        "sizes by rule: 20 tokens a dense parameter that they are worth; systems: their own",
    ),
    "done": ("끝남", "done"),
    "yes": ("예", "yes"),
    "no": ("아니요", "no"),
    "all tokens": ("토큰", "tokens"),
    "kind": ("종류", "kind"),
    # the verdict of a budget
    "lowest loss": ("손실이 가장 낮은 시스템", "lowest loss"),
    "cheapest": ("운영이 가장 싼 시스템", "cheapest to operate"),
    "most media": ("모달리티가 가장 많은 시스템", "most media"),
    "first of": (
        "{title} ({figure}), 1위일 확률 {odds}{tie}",
        "{title} ({figure}), {odds} likely to be first{tie}",
    ),
    "tied with": ("; {count}개와 동률", "; a tie with {count} more"),
    "finished": ("기한 안에 끝나는 시스템", "finish their own plan"),
    "none of them": ("없음", "none"),
    "whole budget": ("전체 비용", "the whole budget"),
    "left out": ("제외된 것", "left out"),
    "not systems": ("다섯 시스템은 모두 제외됨", "none of the five systems fits"),
    # a page
    "copy": ("복사", "copy"),
    "copied": ("복사함", "copied"),
    "drawing": ("그림: {of}", "drawing: {of}"),
    "stages": ("학습 단계", "stages of training"),
    "hours and energy": ("시간과 전력량", "hours and energy"),
    "searched": ("탐색", "search"),
    "evidence and notes": ("근거와 주의", "evidence and notes"),
    # a budget
    "budget": ("{gpu} {gpus}장, {days:g}일", "{gpus} {gpu} for {days:g} days"),
    "budget five": ("다섯 시스템", "the five systems"),
    "budget ladder": ("규칙으로 만든 크기들", "sizes made by rule"),
    "system": ("시스템", "system"),
    "params": ("전체 / 활성", "total / active"),
    "tokens by then": ("그때까지 토큰", "tokens by then"),
    "tokens per active": ("활성당 토큰", "tokens an active"),
    "finish": ("계획대로 끝날 확률", "finishes its own plan"),
    "days needed": ("필요한 일수", "days needed"),
    "serve gpus": ("서비스 GPU", "GPUs to serve"),
    "users a node": ("노드당 사용자", "users a node"),
    "tokens/s/GPU": ("토큰/s/GPU", "tokens/s/GPU"),
    "KV": ("KV 바이트/토큰", "KV bytes a token"),
    "usd a million": ("$/100만 토큰", "$ a million tokens"),
    "aim loss": ("손실이 가장 낮은 것", "lowest loss"),
    "aim operate": ("운영이 가장 싼 것", "cheapest to operate"),
    "aim media": ("모달리티가 가장 많은 것", "most media"),
    "best probability": ("1위일 확률", "is first"),
    "beats": ("맨 위를 이길 확률", "beats the top one"),
    "done probability": ("기한 안에 모두 배울 확률", "learned by then"),
    "tie": ("동률", "tie"),
    "rank": ("순위", "rank"),
    "size": ("활성 매개변수, 10억", "active parameters, billions"),
    "dense": ("밀집(dense)", "dense"),
    "sparse": ("전문가 혼합", "mixture of experts"),
    "same products": ("같은 계산량에서 크기와 손실", "size against loss for the same products"),
    "optimal": (
        "{flops} FLOP에 법칙이 최적이라 하는 밀집 모델 크기 × 토큰",
        "dense size × tokens that laws call optimal for {flops} FLOPs",
    ),
    "real runs": ("실제 학습의 활성 매개변수당 토큰", "tokens a parameter active, of real runs"),
    "engines here": (
        "여기서 바로 실행되는 병렬화 구성만 비교 (--engines any: 모두)",
        "only layouts that are runnable here are compared (--engines any: all)",
    ),
    "engines any": (
        "다른 엔진이 필요한 병렬화 구성까지 비교 (--engines here: 여기서 실행되는 것만)",
        "layouts of all engines are compared (--engines here: only those that are runnable here)",
    ),
    "loss by then": ("그때 손실, nat/토큰", "loss by then, nats"),
    "trains": ("학습 토큰/s/GPU", "training tokens/s/GPU"),
    "budget note": (
        "{most} 토큰에서 그친다(공개된 가장 큰 학습). 서비스: 사용자마다 초당 {speed} 토큰, 문맥 {context}, "
        "사용자가 오는 시간 {busy}. 80 % 구간이 겹치면 동률. 확률은 모르는 것을 함께 뽑아 셈한다: "
        "손실 법칙, 가격, 사용 시간은 모두에게 같다.",
        "At most {most} tokens, the longest published run. Serving: {speed} tokens/s a user, {context} of context, "
        "users in {busy} of the hours. A tie: 80 % ranges that overlap. Probabilities draw all unknowns together: "
        "laws of loss, prices and hours with users are the same for all.",
    ),
    "bill": ("비용", "bill"),
    "cluster": ("클러스터", "cluster"),
    "recipe": ("레시피", "recipe"),
    "assumptions": (
        "손실은 공개 법칙의 범위이며, 크기끼리 비교하는 데만 쓴다.",
        "Losses are ranges of published laws: compare sizes with them, not other models.",
    ),
    # parts of a step and of memory, media, stages
    "projections": ("어텐션 투영", "projections"),
    "feed_forward": ("피드포워드", "feed-forward"),
    "experts": ("전문가", "experts"),
    "head": ("출력층", "head"),
    "attention": ("어텐션", "attention"),
    "convert": ("형식 변환", "conversion"),
    "elementwise": ("원소별 연산", "elementwise"),
    "permute": ("토큰 재배열", "permutation"),
    "copies": ("통신 버퍼 복사", "copies to and from collectives"),
    "scan": ("상태 공간", "scan"),
    "launch": ("커널 실행", "launches"),
    "tp": ("텐서 병렬 통신", "tensor parallel"),
    "cp": ("문맥 병렬 통신", "context parallel"),
    "ep": ("전문가 병렬 통신", "expert parallel"),
    "pp": ("파이프라인 통신", "pipeline sends"),
    "gather": ("매개변수 모으기", "gathers"),
    "reduce": ("기울기 합", "gradient sums"),
    "bubble": ("파이프라인 버블", "bubble"),
    "imbalance": ("전문가 쏠림", "router imbalance"),
    "crowd": ("큰 클러스터의 손실", "large cluster"),
    "alignment": ("정렬", "alignment"),
    "omni": ("옴니", "omni"),
    "annealing": ("어닐링", "annealing"),
    "parameters": ("매개변수", "parameters"),
    "gradients": ("기울기", "gradients"),
    "optimizer": ("옵티마이저", "optimizer"),
    "activations": ("활성값", "activations"),
    "logits": ("로짓", "logits"),
    "transient": ("임시 버퍼", "transient"),
    "buffers": ("통신 버퍼", "buffers"),
    "runtime": ("런타임", "runtime"),
    "text": ("텍스트", "text"),
    "image": ("이미지", "image"),
    "audio": ("소리", "audio"),
    "video": ("비디오", "video"),
    "shape": ("3D", "3D"),
}
OURS = (
    (
        r"use ([\d,]+) of ([\d,]+) GPUs: they train ([\d.]+T) tokens, all would train ([\d.]+T)",
        r"GPU \2장 가운데 \1장만 쓰세요: \1장은 \3 토큰을, 전부는 \4 토큰을 배웁니다",
    ),
    (
        r"use ([\d,]+) of ([\d,]+) GPUs: they need (\S+) days, all would need (\S+)",
        r"GPU \2장 가운데 \1장만 쓰세요: \1장은 \3일, 전부는 \4일이 걸립니다",
    ),
    (
        r"use ([\d,]+) of ([\d,]+) GPUs: no layout is better on more of them",
        r"GPU \2장 가운데 \1장만 쓰세요: 더 써도 나아지는 병렬화 구성이 없습니다",
    ),
    (
        r"(\S+) trains (\S+) (\S+) times faster than what is runnable here: --engines any plans with it",
        r"\1: \2 단계가 여기서 실행되는 구성보다 \3배 빠름 (--engines any로 그 구성을 계획)",
    ),
    ("stages need different engines: ", "단계마다 필요한 엔진이 다름: "),
    (r"([\w, ]+?) with (\S+?)(;|$)", r"\1: \2\3"),
    (r"([\w, ]+?) here(;|$)", r"\1: 여기서 실행\2"),
    (
        r"(\d+) layers over (\d+) stages are uneven: (\S+) needs its stages written out",
        r"\1개 층을 \2단으로 나누면 고르지 않음: \3에 단마다 층을 적어 줘야 함",
    ),
    (
        r"(\d+) layers over (\d+) stages are uneven: (\S+) needs (\S+)",
        r"\1개 층을 \2단으로 나누면 고르지 않음: \3에 \4 필요",
    ),
    ("batches that the ranks divide", "랭크 수로 나누어지도록 바꾼 배치 크기"),
    ("laid out so that they divide and fit", "나누어지고 메모리에 들어가도록 바꾼 병렬화 구성"),
    ("does not fit the GPU", "GPU에 들어가지 않음"),
    ("fits the GPU with less than 90 % probability", "GPU에 들어갈 확률이 90 %에 못 미침"),
    (
        r"none of ([\d,]+) layouts fits, the smallest takes ([\d,]+) GiB of (\d+)",
        r"병렬화 구성 \1가지가 모두 들어가지 않음, 가장 작은 것이 \3 GiB 가운데 \2",
    ),
    (
        r"no layout divides ([\d,]+) sequences a batch",
        r"배치당 시퀀스 \1개를 나누는 병렬화 구성이 없음",
    ),
    (r"are less than one step of ([\d,]+) tokens", r"\1 토큰인 한 스텝보다 적음"),
    (
        "trains too few tokens .*",
        "그때까지 배우는 토큰이 매개변수보다 적어 어느 손실 법칙도 맞지 않음",
    ),
    (
        r"(\d+) of (\d+) published (.*) runs are on (.*) in (\w+): (.*)",
        r"공개된 \3 학습 \2개 가운데 \4, \5인 것 \1개: \6",
    ),
    ("mixture-of-experts", "전문가 혼합"),
    ("\\bdense\\b", "밀집"),
    (r"(\d+) constants", r"상수 \1개"),
    (r"([\d.]+) and ([\d.]+): two fits", r"\1, \2: two fits"),
    (r"DeepSeek's inference system overview", "DeepSeek의 추론 시스템 개요"),
    (r"the whole row: yours", "행 전체: 사용자 제공"),
    (r"assumed of ([^:;]+):", r"\1에서 가정한 값:"),
    (r"price: yours, ([\d.e+-]+) dollars a GPU hour", r"가격: 사용자 제공, GPU 시간당 $\1"),
    (
        r"network: yours, ([\d.e+-]+) Gb/s a GPU, one way",
        r"네트워크: 사용자 제공, GPU당 단방향 \1 Gb/s",
    ),
    (
        r"fast links: yours, ([\d.e+-]+) GB/s a GPU, one way",
        r"고속 링크: 사용자 제공, GPU당 단방향 \1 GB/s",
    ),
    (
        r"twice the table's: data sheets count both ways",
        "표의 두 배: 데이터 시트는 양방향을 합해 적음",
    ),
    (
        r"products: yours, ([\d.e+-]+) TFLOPS of (\w+) products",
        r"행렬곱: 사용자 제공, \2 \1 TFLOPS",
    ),
    (r"node: yours, (\d+) GPUs a node", r"노드: 사용자 제공, 노드당 GPU \1장"),
    (
        r"domain: yours, (\d+) GPUs that fast links join",
        r"도메인: 사용자 제공, 고속 링크로 이어진 GPU \1장",
    ),
    (r"power: yours, ([\d.e+-]+) W a GPU", r"전력: 사용자 제공, GPU당 \1 W"),
    (r"memory: yours, ([\d.e+-]+) GiB a GPU", r"메모리: 사용자 제공, GPU당 \1 GiB"),
    (r"memory rate: yours, ([\d.e+-]+) TB/s a GPU", r"메모리 대역폭: 사용자 제공, GPU당 \1 TB/s"),
    (r"compiled kernels of Onnuri's own step: yours", "온누리 스텝의 컴파일된 커널: 사용자 제공"),
    (r"\(table: none\)", "(표: 없음)"),
    (r"\(table: ([\d.e+-]+) to ([\d.e+-]+)\)", r"(표: \1–\2)"),
    (r"\(table:", "(표:"),
    (
        "router imbalance: (.*) to (.*) and (.*) to (.*) TFLOPS",
        r"전문가 쏠림: \1에서 \2, \3에서 \4 TFLOPS",
    ),
    (r"([\d.]+) failures per 1,000 node-days", r"노드·일 1,000에 장애 \1회"),
    (r"([\d.]+) to ([\d.]+) per 1,000 node-days", r"노드·일 1,000에 \1–\2회"),
    ("restarts", "재시작"),
    (
        r"(\d+ %) of its GPU hours at steady speed; model cards' hours",
        r"GPU 시간의 \1가 꾸준한 속도; 모델 카드의 시간",
    ),
    ("two fits of one law", "한 법칙을 두 번 피팅한 것"),
    ("worth of sparse parameters", "희소 매개변수의 가치"),
    ("worth of media tokens for text", "다른 모달리티의 토큰이 텍스트에 주는 가치"),
    ("roofline of memory and products", "메모리와 행렬곱의 루프라인"),
    ("prompts, speed a user", "프롬프트, 사용자별 속도"),
    (
        "shares reached, (.*) tokens of context, users in (.*) of the hours",
        r"닿는 비율, 문맥 \1 토큰, 사용자가 오는 시간 \2",
    ),
    ("list prices of the hardware table", "하드웨어 표의 정가"),
    ("your price", "사용자 제공 가격"),
    ("rated power", "정격 전력"),
    ("your power", "사용자 제공 전력"),
    ("draw, cooling", "실제 전력, 냉각"),
    ("assumed", "가정"),
    (r": none\b", ": 없음"),
    (r"\btext\b", "텍스트"),
    (r"\balignment\b", "정렬"),
    (r"\bomni\b", "옴니"),
    (r"\bannealing\b", "어닐링"),
    (r"(→ [\d,]+) tokens", r"\1 토큰"),
)
"""sentences of the planner's notes and evidence as patterns, and the same in Korean; citations
stay"""
MODELS = (
    (
        r"(\S+) is a size, no model: (\d+) layers of (\d+) by the rule of `onnuri plan budget`",
        r"\1은(는) 모델이 아니라 크기: `onnuri plan budget`의 규칙으로 만든 \2층, 폭 \3",
    ),
    (
        r"(\S+) is a family: (\d+) layers of (\d+) with its traits",
        r"\1은(는) 계열 이름: 그 특성을 따른 \2층, 폭 \3",
    ),
    ("7B assumed, for the name says no size", "이름에 크기가 없어 7B로 가정"),
    ("\\bshape from ", "구조의 출처: "),
    (
        r"shapes of (\w+) as transformers builds it from the config",
        r"transformers가 config로 만드는 \1의 구조",
    ),
    (
        r"(\S+) \(([\d.]+B) parameters\) is left out: the plan trains the language model alone",
        r"\1(매개변수 \2) 제외: 언어 모델만 학습하는 계획",
    ),
    (
        r"state-space or linear-attention layers hold ([\d.]+%) of the parameters; their cost is rough, so the ranges of speed and "
        "memory are wider",
        r"상태 공간 또는 선형 어텐션 층이 매개변수의 \1; 비용이 대략이라 속도와 메모리의 구간이 더 넓음",
    ),
    (
        "counted as plain products or tables, for the model of cost has no formula for them",
        "비용 모델에 식이 없어 보통 행렬곱이나 표로 계산",
    ),
    (
        r"torch counts ([\d.]+) times the FLOPs that the weights explain \(recurrences, layers that run again, or parts that text "
        r"does not use\); the plan takes torch's count",
        r"torch가 세는 FLOPs는 가중치로 설명되는 것의 \1배(순환, 되풀이되는 층, 텍스트가 쓰지 않는 부분); 계획은 torch의 값을 씀",
    ),
    (
        "layers that share one set of weights are computed as often as they run and counted once",
        "가중치를 나누어 쓰는 층은 실행 횟수만큼 계산하고 매개변수는 한 번만 셈",
    ),
    ("assumed, for the config does not say", "config에 없어 가정"),
    (
        "the chosen experts alone, though transformers' own code computes all of them",
        "선택된 전문가만 계산(transformers의 코드는 모두 계산)",
    ),
    (r"(\d+) experts a token", r"토큰당 전문가 \1개"),
    ("assumed, for it is no recipe", "레시피가 아니라서 가정"),
    (r"sequences of ([\d,]+) tokens \(--seq-len\)", r"시퀀스 \1 토큰(--seq-len)"),
    (r"batches of ([\d,]+) tokens \(--batch-tokens\)", r"배치 \1 토큰(--batch-tokens)"),
    (
        r"(\S+) tokens of text in all, 20 for each dense parameter it is worth \(--tokens\)",
        r"텍스트 모두 \1 토큰, 조밀 매개변수로 친 값마다 20(--tokens)",
    ),
    (
        "runnable here is said of the layout alone: Onnuri's trainer builds",
        "여기서 바로 실행됨은 병렬화 구성만을 뜻함, 온누리 학습기가 만드는 모델",
    ),
    (
        "all stages have the sequences and batches that were asked for",
        "모든 단계의 시퀀스와 배치를 요청대로 바꿈",
    ),
)
"""the same of models that are no recipes"""


def ours(text: str, language: Language) -> str:
    """A note or evidence in the reader's language."""
    for pattern, korean in (*MODELS, *OURS) if language == "ko" else ():
        text = re.sub(pattern, korean, text)
    return text


def say(key: str, language: Language, **values: object) -> str:
    """The word or sentence; a key without an entry is a name (of a part of a step, an engine) and
    stays."""
    ko, en = WORDS.get(key, (key, key))
    return (ko if language == "ko" else en).format(**values)


def count(text: str | None) -> float | None:
    """`10T`, `500B`, `1e12`: how many. Raises ConfigError for what is no number."""
    if text is None:
        return None
    size = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    try:
        return float(text if size == 1.0 else text[:-1]) * size
    except ValueError:
        raise ConfigError(
            f"{text!r}", "is not a number of tokens", "write such as 10T or 500B"
        ) from None
