# Two commands: `make up` runs the cloud on this machine, `make test` runs all that CI runs.
# Each installs what is missing first; a second run finds it there.

.PHONY: up test test-long bench install fmt docs

up:
	@tools/install build
	@tools/up

test:
	@tools/install build guests test
	@tools/test

# Fuzzes for minutes in place of seconds, and ends with a soak: an hour, or what FIRM_SOAK says (5m, 90s, 2h).
test-long:
	@tools/install build guests test
	@bench/install load
	@FIRM_TEST_LONG=1 tools/test

bench:
	@tools/install build guests bench
	@bench/run

# Writes docs/cli.md, docs/openapi.json, docs/firm.schema.json, docs/cloud.schema.json and the table of docs/performance.md anew, after a
# change of what they describe, or a bench.
docs:
	@. tools/env && UPDATE_EXPECT=1 cargo test --release --workspace --test house

fmt:
	@cargo fmt --all
