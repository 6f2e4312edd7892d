# make demo    a pseudo-CT, a µ-map and a report from a real head, and an evaluation on a real pair
# make test    the test suite
# make lint    formatting, style, types, and the floors of the architecture
# make bench   the tables of docs/benchmarks.md (needs the data pack: make bench DATA_PACK=DIR)
PYTHON ?= python3
BIN := .venv/bin
SAMPLES := SynthCT/Resources/SampleData
DATA_PACK ?= ../shared/data
STAMP := .venv/.ready

.PHONY: demo test lint bench clean

$(STAMP): pyproject.toml constraints.txt tools/environment.py
	$(PYTHON) tools/environment.py dev
	touch $@

demo: $(STAMP)
	$(BIN)/synthct run --mr $(SAMPLES)/child_3y_t1.nii.gz -o demo/head --overwrite
	$(BIN)/synthct run --mr $(SAMPLES)/STS_014/mr.nii.gz --reference-ct $(SAMPLES)/STS_014/ct.nii.gz \
	    --model limb-mr-ct -o demo/limb --overwrite
	@echo
	@echo "Look at these in a browser:"
	@echo "  demo/head/report.html   pseudo-CT and µ-map of the head of a 3-year-old"
	@echo "  demo/limb/report.html   evaluation against the real CT of the same patient (a thigh)"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py --data-pack $(DATA_PACK)

clean:
	rm -rf .venv demo build dist benchmarks/out
