"""The planner's errors in Korean: sentences as patterns. Knows no figure; whoever raises one writes
English.

A pattern fits a whole value, rule or repair; what stands in its groups is put into Korean in turn.
What no pattern fits stays as it is: a name, a file, a number.
"""

from __future__ import annotations

import re

from onnuri.errors import OnnuriError
from onnuri.modality import Language
from onnuri.planner.words import ours

SAID = (
    # values
    (r"(\S+) GPUs", "GPU {0}장"),
    (r"GPU (.+)", "GPU {0}"),
    (r"(\S+) days", "{0}일"),
    (r"days (\S+)", "일수 {0}"),
    (r"tokens (\S+)", "토큰 {0}"),
    (r"(\S+) tokens", "{0} 토큰"),
    (r"budget (\S+)", "예산 {0}"),
    (r"recipe (.+)", "레시피 {0}"),
    (r"software year (\S+)", "출시 연도 {0}"),
    (r"precision (.+)", "정밀도 {0}"),
    (r"context (\S+)", "문맥 길이 {0}"),
    ("serving", "서비스"),
    ("cluster", "클러스터"),
    (r"cluster (.+)", "클러스터 {0}"),
    (r"prompts per token (\S+)", "출력 토큰당 입력 토큰 {0}"),
    (r"(.+) on ([\d,]+) (\S+)", "{0}, {2} {1}장"),
    (r"([\d,]+) (\S+) for (\S+) days", "{1} {0}장으로 {2}일"),
    (r"(\d+) stages", "스테이지 {0}개"),
    (r"model (.+)", "모델 {0}"),
    (r"family (.+)", "모델 종류 {0}"),
    (r"(dp \d+ x tp .*) = (\d+)", "{0} = {1}"),
    (r"--days and --largest-for", "--days와 --largest-for"),
    ("budget", "예산"),
    # rules: numbers and their ranges
    (r"(?:is|are) not from (\S+) to (\S+) (.+)", "{0}에서 {1}까지여야 함 ({2})"),
    (r"(?:is|are) not from (\S+) to (\S+)", "{0}에서 {1}까지여야 함"),
    (r"is not from 0 to isl / osl, (\S+)", "0에서 입력/출력 길이의 비인 {0}까지여야 함"),
    ("is not a number", "숫자가 아님"),
    ("is not a whole number", "정수가 아님"),
    ("is not a whole number above zero", "1 이상의 정수가 아님"),
    ("is not a name", "이름이 아님"),
    ("is not true or false", "true나 false가 아님"),
    ("is not a time", "시간이 아님"),
    ("is not a length of time", "기간이 아님"),
    ("is not above 0 and within a century", "0보다 크고 100년 이하여야 함"),
    (r"is not above 0 and up to (\S+) s", "0보다 크고 {0}초 이하여야 함"),
    ("is not a positive number of days within a century", "100년 이하의 양수 일수가 아님"),
    (r"is not a positive number below (\S+)", "{0}보다 작은 양수가 아님"),
    (r"is not a year from (\d+) to (\d+)", "{0}년에서 {1}년 사이가 아님"),
    ("is not a number of tokens", "토큰 수가 아님"),
    ("is less than 1 token", "1 토큰보다 적음"),
    ("is less than 1", "1보다 작음"),
    ("is not a number of GPUs and their name", "GPU 수와 이름이 아님"),
    # rules: names and files
    ("is not in the hardware table", "하드웨어 표에 없음"),
    ("is a GPU of the hardware table", "하드웨어 표에 이미 있는 GPU임"),
    ("has no list price in the hardware table", "하드웨어 표에 정가가 없음"),
    ("is not known", "알 수 없는 이름임"),
    (r"is not what a (.+) multiplies", "{0}에는 이 정밀도의 행렬곱이 없음"),
    ("is not a key of a cluster", "클러스터의 항목이 아님"),
    (r"stands beside the cluster file's (.+)", "클러스터 파일의 {0}와 다름"),
    ("names no GPU", "GPU 이름이 없음"),
    ("has no number of GPUs", "GPU 수가 없음"),
    (r"lacks (.+)", "빠진 것: {0}"),
    (r"cannot be read \((.+)\)", "읽을 수 없음 ({0})"),
    (r"is not TOML \((.+)\)", "TOML이 아님 ({0})"),
    ("says nothing of a cluster", "클러스터에 관한 내용이 없음"),
    (r"is of (\S+) products, which a (.+) has not", "{1}에는 {0} 행렬곱이 없음"),
    (r"is above the peak of a (.+), (\S+) TFLOPS dense", "{0}의 최대치인 {1} TFLOPS(밀집)보다 큼"),
    ("is a folder", "폴더임"),
    (r"cannot be a folder \((.+)\)", "폴더로 만들 수 없음 ({0})"),
    ("is empty", "비어 있음"),
    ("is not in the list of shapes", "모양 목록에 없음"),
    # rules: layouts and what fits
    (r"gives (\S+) again", "{0}을(를) 두 번 줌"),
    ("is not part of a layout", "병렬화 구성의 일부가 아님"),
    (r"is not a multiple of (\d+)", "{0}의 배수가 아님"),
    (r"is not (\d+) GPUs", "GPU {0}장이 아님"),
    (r"are more than (\d+) layers", "레이어 {0}개보다 많음"),
    ("stands beside a layout, which has its own", "병렬화 구성이 따로 정함"),
    (
        r"is enough for none of (\d+) sizes; (\d+) of them: (.+)",
        "크기 {0}개 어느 것에도 모자람; 그 가운데 {1}개: {2}",
    ),
    ("train none of the sizes fully", "어떤 크기도 끝까지 학습하지 못함"),
    (r"(text|alignment|omni|annealing): (.+)", "{0}: {1}"),
    (r"are too few for any number of GPUs up to (\S+)", "GPU가 {0}장까지 얼마여도 모자람"),
    # rules: questions beside each other
    (
        "stands beside --gpus-for, which finds the number of GPUs",
        "GPU 수를 찾는 --gpus-for와 함께 쓸 수 없음",
    ),
    (
        "stands beside --largest-for, which asks what runs here",
        "여기서 실행되는 것만 찾는 --largest-for와 함께 쓸 수 없음",
    ),
    ("stands beside --days, which says how many", "토큰 수를 정하는 --days와 함께 쓸 수 없음"),
    ("needs one of --days and --largest-for", "--days와 --largest-for 가운데 하나가 필요함"),
    # models by file, hub, size or name
    (r"is a recipe's, and (.+) is none", "레시피의 것인데 {0}은(는) 레시피가 아님"),
    (r"is not a (.+)'s \((.+)\)", "{0}의 값이 아님 ({1})"),
    (
        "is not in the hub's local cache, and HF_HUB_OFFLINE is set",
        "허브의 로컬 캐시에 없고 오프라인으로 설정됨",
    ),
    (
        r"is not in the hub's local cache, and the hub cannot be reached \((.+)\)",
        "허브의 로컬 캐시에 없고 허브에 닿을 수 없음 ({0})",
    ),
    ("builds a model without repeated layers", "반복되는 레이어가 없는 모델을 만듦"),
    (r"builds no model \((.+): (.+)\)", "모델을 만들지 못함 ({0}: {1})"),
    ("has no causal language model in transformers", "트랜스포머스에 이 모델의 언어 모델이 없음"),
    (r"has no config\.json on the hub \(status (.+)\)", "허브에 설정 파일이 없음 ({0})"),
    (r"has no config\.json", "설정 파일이 없음"),
    ("has no fewer active parameters than in all", "활성 매개변수가 전체보다 적지 않음"),
    ("has no parameter count", "매개변수 수가 없음"),
    ("has neither a listed shape nor a parameter count", "모양 목록에도 없고 매개변수 수도 없음"),
    (r"is larger than (\S+) MB", "{0} MB보다 큼"),
    (
        r"is more than the ([\d,]+) positions that (.+) learns",
        "{1}이(가) 배우는 위치 {0}개보다 많음",
    ),
    (r"is no file, folder or ORG/NAME", "파일도 폴더도 허브의 이름도 아님"),
    ("is no mixture that the rule makes", "규칙으로 만들 수 있는 전문가 혼합 모델이 아님"),
    (r"is no name of the hub \((.+)\)", "허브의 이름이 아님 ({0})"),
    (
        r"is no recipe, listed shape, config\.json, folder, ORG/NAME or size",
        "레시피, 목록의 모양, 설정 파일, 폴더, 허브의 이름, 크기 가운데 아무것도 아님",
    ),
    (r"is not JSON \((.+)\)", "제이슨 형식이 아님 ({0})"),
    ("is not from 100M to 100T parameters", "매개변수가 100M에서 100T 사이가 아님"),
    (r"is not known to transformers (.+)", "트랜스포머스 {0}이(가) 모르는 모델임"),
    ("is not public, or does not exist", "공개되지 않았거나 없음"),
    (r"is not whole sequences of (\S+) tokens", "{0} 토큰인 시퀀스로 나누어떨어지지 않음"),
    ("names no model_type", "모델 종류가 없음"),
    (
        r"needs code of its own \(trust_remote_code\), which is not run",
        "자체 코드가 필요한데 그런 코드는 실행하지 않음",
    ),
    (
        "stands beside a layout, which says what runs it",
        "무엇으로 실행할지 정하는 병렬화 구성과 함께 쓸 수 없음",
    ),
    ("give a decoder's config", "디코더의 설정을 주세요"),
    (r"give a model's config\.json", "모델의 설정 파일을 주세요"),
    (r"give a model's folder or its config\.json", "모델의 폴더나 설정 파일을 주세요"),
    ("complete the config", "설정을 채우세요"),
    ("mend the config", "설정을 고치세요"),
    ("give ORG/NAME", "허브의 이름(ORG/NAME)을 주세요"),
    (
        r"give a config\.json, its folder or ORG/NAME",
        "설정 파일이나 그 폴더, 허브의 이름(ORG/NAME)을 주세요",
    ),
    (r"give a multiple of (.+)", "{0}의 배수를 주세요"),
    (r"give at most (.+)", "{0} 이하로 주세요"),
    ("give a size such as 70B or 300B-A15B instead", "대신 70B나 300B-A15B 같은 크기를 주세요"),
    (
        "give more total or fewer active parameters",
        "전체 매개변수를 늘리거나 활성 매개변수를 줄이세요",
    ),
    (r"give the config\.json of a model of transformers", "트랜스포머스 모델의 설정 파일을 주세요"),
    ("give total_params_B", "전체 매개변수 수를 주세요"),
    (
        "give total_params_B, or layers, hidden and heads",
        "전체 매개변수 수나 레이어, 너비, 헤드 수를 주세요",
    ),
    (r"give every value of the family (.+)", "{0} 종류의 모든 값을 주세요"),
    ("leave it out, or write one", "빼거나 하나를 쓰세요"),
    (
        r"use (.+), a config\.json, ORG/NAME, or a size such as 70B or 300B-A15B",
        "{0}, 설정 파일, 허브의 이름(ORG/NAME), 70B나 300B-A15B 같은 크기 가운데 하나를 쓰세요",
    ),
    (r"use (.+), or give its columns", "{0}을(를) 쓰거나 그 열을 주세요"),
    # the command line
    ("is not an option here", "여기에 없는 옵션임"),
    ("is not expected here", "여기에 올 수 없음"),
    ("has no value", "값이 없음"),
    (r"has no (.+)", "{0}이(가) 없음"),
    (r"did you mean (--\S+)\?", "{0}인가요?"),
    ("write one behind it, or leave it out", "뒤에 값을 쓰거나 빼세요"),
    (r"leave it out, or see (.+)", "빼거나 {0}를 보세요"),
    (r"see (.+ --help)", "{0}를 보세요"),
    (
        "give your own, --price-usd, or leave the budget out",
        "--price-usd로 가격을 주거나 예산을 빼세요",
    ),
    # repairs
    ("give a whole number between", "그 사이의 정수를 주세요"),
    ("give more than 0", "0보다 큰 수를 주세요"),
    ("give more of them", "더 많이 주세요"),
    ("give more GPUs or days", "GPU나 일수를 늘리세요"),
    (r"write such as (.+), or leave it out", "{0}처럼 쓰거나 빼세요"),
    (r"write such as (.+)", "{0}처럼 쓰세요"),
    (r"give such as (.+), or (.+)", "{0}이나 {1}처럼 주세요"),
    (r"give such as (.+)", "{0}처럼 주세요"),
    (r"use ([\d,]+) GPUs", "GPU {0}장을 쓰세요"),
    (r"use GPUs of ([\d,]+) GiB", "메모리가 {0} GiB인 GPU를 쓰세요"),
    ("use a power of two of GPUs", "GPU 수를 2의 거듭제곱으로 하세요"),
    ("use more GPUs, or a power of two", "GPU를 늘리거나 2의 거듭제곱으로 하세요"),
    ("use GPUs of more memory, or more", "메모리가 더 큰 GPU를 쓰거나 수를 늘리세요"),
    ("use fewer stages", "스테이지를 줄이세요"),
    (r"use (.+)", "{0} 가운데 하나를 쓰세요"),
    ("leave the budget out", "예산을 빼세요"),
    ("leave it out, or take another GPU", "빼거나 다른 GPU를 쓰세요"),
    ("leave it out", "빼세요"),
    ("leave one of them out", "하나를 빼세요"),
    ("leave one out", "하나를 빼세요"),
    ("write it in the layout", "병렬화 구성에 쓰세요"),
    ("choose a layout that divides", "나누어지는 구성을 고르세요"),
    ("let the degrees multiply to the GPUs", "차수의 곱이 GPU 수가 되게 하세요"),
    ("give a whole number from 1 on", "1 이상의 정수를 주세요"),
    ("give the mean length of a conversation", "대화의 평균 길이를 주세요"),
    ("give a TOML file with a cluster", "클러스터를 적은 TOML 파일을 주세요"),
    (r"write lines such as (.+)", "{0} 같은 줄을 쓰세요"),
    ("add them, or name a GPU of the hardware table", "더하거나 하드웨어 표의 GPU 이름을 쓰세요"),
    (r"did you mean (\S+)\? known are (.+)", "{0}인가요? 아는 항목: {1}"),
    (
        r"write (gpu = .+) and your figures beside it, or another name",
        "{0}라고 쓰고 옆에 값을 적거나, 다른 이름을 쓰세요",
    ),
    (r"write (.+)", "{0}라고 쓰세요"),
    (
        "give what large products were measured to reach, without sparsity",
        "큰 행렬곱에서 실제로 잰 값을 희소 가속 없이 주세요",
    ),
    ("give milliseconds, such as 500, or such as 2s", "500 같은 밀리초나 2s처럼 주세요"),
    (
        "give fewer, or leave it out where nothing is cached",
        "더 적게 주거나, 캐시하지 않으면 빼세요",
    ),
    ("give the tokens of a prompt and of an answer: (.+)", "입력과 출력의 토큰 수를 주세요: {0}"),
    ("give a file's name", "파일 이름을 주세요"),
    ("give another folder", "다른 폴더를 주세요"),
    ("give --largest-for instead", "대신 --largest-for를 쓰세요"),
    (
        r"give ([\d,]+) days, which ([\d,]+) GPUs take, or fewer tokens",
        "GPU {1}장이 걸리는 {0}일을 주거나 토큰을 줄이세요",
    ),
    (r"give ([\d,]+) days, or more GPUs", "{0}일을 주거나 GPU를 늘리세요"),
)
"""a whole value, rule or repair as a pattern, and the same in Korean"""
UNITS = {
    "parameters": "매개변수",
    "dollars a GPU hour": "GPU 시간당 달러",
    "Gb/s a GPU, one way": "GPU당 단방향 Gb/s",
    "GB/s a GPU, one way": "GPU당 단방향 GB/s",
    "TFLOPS of bf16 products": "bf16 행렬곱 TFLOPS",
    "TFLOPS of fp8 products": "fp8 행렬곱 TFLOPS",
    "GPUs a node": "노드당 GPU",
    "GPUs that fast links join": "고속 링크로 이어진 GPU",
    "W a GPU": "GPU당 W",
    "GiB a GPU": "GPU당 GiB",
    "TB/s a GPU": "GPU당 TB/s",
    "TFLOPS, peak of dense bf16 products": "bf16 밀집 행렬곱 최대 TFLOPS",
    "tokens": "토큰",
    "year": "년",
    "GPUs": "GPU",
    "TFLOPS, peak of dense fp8 products": "fp8 밀집 행렬곱 최대 TFLOPS",
    "TFLOPS, peak of dense fp4 products": "fp4 밀집 행렬곱 최대 TFLOPS",
    "1e12 exponentials a second": "초당 지수 함수 1e12번",
}
"""of `own_cluster.RULES` and others"""


def korean(text: str) -> str:
    """Return a value, rule or repair in Korean, or as it is where no pattern fits."""
    if text in UNITS:
        return UNITS[text]
    for pattern, template in SAID:
        if parts := re.fullmatch(pattern, text):
            return template.format(*(korean(group) for group in parts.groups()))
    return ours(text, "ko")


def complaint(error: OnnuriError, language: Language) -> str:
    """Return the one line of an error in the reader's language."""
    if language == "en":
        return str(error)
    return " ".join(f"{korean(error.value)}: {korean(error.rule)}; {korean(error.repair)}".split())
