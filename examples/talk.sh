#!/bin/sh
# The same with curl: `sh examples/talk.sh [http://127.0.0.1:8000/v1]`. Writes out/picture.png, speech.mp3 and model.glb.
set -eu
url="${1:-http://127.0.0.1:8000/v1}"
mkdir -p out

curl -sf "$url/images/generations" -H 'Content-Type: application/json' -d '{"prompt": "큰 노란 도넛이 있다"}' |
  python3 -c 'import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))' \
  > out/picture.png

curl -sf "$url/audio/speech" -H 'Content-Type: application/json' \
  -d '{"input": "큰 노란 도넛이 있다", "voice": "default"}' > out/speech.mp3
curl -sf "$url/audio/transcriptions" -F file=@out/speech.mp3 -F response_format=text

id=$(curl -sf "$url/meshes" -H 'Content-Type: application/json' -d '{"prompt": "a large yellow torus"}' |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
until curl -sf "$url/meshes/$id/content" > out/model.glb; do sleep 0.2; done
ls out
