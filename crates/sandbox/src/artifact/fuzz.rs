//! Fuzz target of what the disk gives back of native code: only what was compiled is ever mapped.

use proptest::prelude::*;
use proptest::strategy::Just;

use super::*;
use std::sync::Arc;

use crate::engine;
use crate::fuzzing::{Input, damaged, fuzz, mutated};
use crate::memory::{Memories, Stacks};

const SOURCE: &str = "(component (core module (func (export \"run\") (result i32) (i32.const 42))))";

#[test]
fn a_damaged_artifact_is_never_mapped() {
    let (memories, stacks) = (Arc::new(Memories::new(1)), Arc::new(Stacks::new(1)));
    let engines = Engines::new(&memories, &stacks).expect("two engines");
    let engine = engine::compiler(Flavour::Http02).expect("an engine");
    let wasm = wat::parse_str(SOURCE).expect("the component is well formed");
    let code = engine.precompile_component(&wasm).expect("it compiles");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let artifacts = Artifacts::open(dir.path().to_owned(), engines.fingerprint()).expect("it is new");
    let (tenant, component) = (TenantId(1), Digest::of(&wasm));
    let mut unfinished = artifacts.begin().expect("a file");
    unfinished.write_all(&code).expect("room for a small artifact");
    let compiled = Compiled { component, imports: Vec::new(), flavour: Flavour::Http02 };
    artifacts.put(tenant, &compiled, &[], &unfinished).expect("it is put into place");
    assert!(artifacts.map(&engines, tenant, component).is_ok(), "the whole artifact is mapped");

    let [code_at, label_at] = ["cwasm", "json"].map(|end| artifacts.path(tenant, component, end));
    let label = fs::read(&label_at).expect("it was just written");
    let inputs = (
        prop_oneof![Just(Input(code.clone())), damaged(code.clone()), mutated(vec![code.clone()], &[])],
        prop_oneof![
            Just(Input(label.clone())),
            damaged(label.clone()),
            mutated(vec![label], &["{", "\"", "0", ",", "null", "http03"])
        ],
    );
    fuzz("artifacts", &inputs, |(bytes, label)| {
        // Files of this folder are never written to while they are mapped.
        let _ = artifacts.remove(tenant, component);
        fs::write(&code_at, &*bytes).expect("room for a small artifact");
        fs::write(&label_at, &*label).expect("room for a label");
        match artifacts.map(&engines, tenant, component) {
            Ok(_) => prop_assert!(bytes.0 == code, "changed code was mapped"),
            Err(ReadError::Damaged) => {
                prop_assert!(!code_at.exists() && !label_at.exists(), "it must be compiled anew");
            }
            Err(ReadError::Missing | ReadError::Io(_)) => return Err(TestCaseError::fail("it is there")),
        }
        Ok(())
    });
}
