//! What is cut does what it did before, and nothing else was touched.

use base::limits::GUEST_STRAIGHT_OPERATORS_MAX;
use proptest::prelude::*;
use wasmtime::component::{Component, Linker, TypedFunc};
use wasmtime::{Config, Engine, Store};

use wasmparser::{Parser, Payload};

use super::super::{Found, count, rewrite};
use super::*;

/// A component that fills, copies and initialises, and hashes its memory.
const WAT: &str = r#"
(component
  (core module $m
    (import "" "unused" (func $unused (param i32)))
    (type $hash (func (result i64)))
    (memory 16)
    (data $text "\01\02\03\04\05\06\07\08\09\0a\0b\0c\0d\0e\0f")
    (func (export "fill") (param i32 i32 i32) local.get 0 local.get 1 local.get 2 memory.fill)
    (func (export "copy") (param i32 i32 i32) local.get 0 local.get 1 local.get 2 memory.copy)
    (func (export "init") (param i32 i32 i32) local.get 0 local.get 1 local.get 2 memory.init $text)
    (func (export "hash") (type $hash) (local $at i32) (local $hash i64)
      (loop $again
        (local.set $hash
          (i64.mul
            (i64.xor (local.get $hash) (i64.load (local.get $at)))
            (i64.const 1099511628211)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $again (i32.lt_u (local.get $at) (i32.const 1048576))))
      (local.get $hash)))
  (core module $none (func (export "unused") (param i32)))
  (core instance $i (instantiate $none))
  (core instance $n (instantiate $m (with "" (instance $i))))
  (func (export "fill") (param "to" u32) (param "what" u32) (param "bytes" u32) (canon lift (core func $n "fill")))
  (func (export "copy") (param "to" u32) (param "from" u32) (param "bytes" u32) (canon lift (core func $n "copy")))
  (func (export "init") (param "to" u32) (param "from" u32) (param "bytes" u32) (canon lift (core func $n "init")))
  (func (export "hash") (result u64) (canon lift (core func $n "hash"))))
"#;

struct Guest {
    store: Store<()>,
    operations: [TypedFunc<(u32, u32, u32), ()>; 3],
    hash: TypedFunc<(), (u64,)>,
}

impl Guest {
    fn new(engine: &Engine, component: &Component) -> Self {
        let mut store = Store::new(engine, ());
        let instance = Linker::new(engine).instantiate(&mut store, component).expect("it imports nothing");
        let operations =
            ["fill", "copy", "init"].map(|name| instance.get_typed_func(&mut store, name).expect("it exports these"));
        let hash = instance.get_typed_func(&mut store, "hash").expect("it exports this");
        Self { store, operations, hash }
    }

    /// `None` when it traps.
    fn does(&mut self, (operation, to, from, bytes): (usize, u32, u32, u32)) -> Option<u64> {
        self.operations[operation].call(&mut self.store, (to, from, bytes)).ok()?;
        Some(self.hash.call(&mut self.store, ()).expect("it only reads").0)
    }
}

fn engine() -> Engine {
    let mut config = Config::new();
    config.signals_based_traps(true);
    Engine::new(&config).expect("an engine")
}

const MEMORY: u32 = 16 << 16;

/// A place or a length, likely at the edge of a piece or of the memory.
fn number() -> impl Strategy<Value = u32> {
    let piece = count(GUEST_BULK_PIECE_BYTES);
    let edge = prop_oneof![Just(0), (1..4_u32).prop_map(move |pieces| pieces * piece), Just(MEMORY), Just(MEMORY / 2)];
    prop_oneof![
        4 => (edge, -9..9_i32).prop_map(|(edge, off)| edge.saturating_add_signed(off)),
        2 => 0..MEMORY,
        1 => any::<u32>(),
    ]
}

#[test]
fn what_is_cut_does_what_it_did() {
    let engine = engine();
    let whole = wat::parse_str(WAT).expect("it is well formed");
    let cut = rewrite(&whole).expect("it is well formed").wasm;
    let [whole, cut] = [whole, cut].map(|wasm| Component::from_binary(&engine, &wasm).expect("it is valid"));
    let operation = (0..3_usize, number(), number(), number());
    proptest!(ProptestConfig::with_cases(64), |(operations in proptest::collection::vec(operation, 1..12))| {
        let (mut before, mut after) = (Guest::new(&engine, &whole), Guest::new(&engine, &cut));
        for operation in operations {
            let found = before.does(operation);
            prop_assert_eq!(after.does(operation), found, "{:?}", operation);
            // A trap is the end of an instance.
            if found.is_none() {
                break;
            }
        }
    });
}

fn bulk_operations(wasm: &[u8]) -> usize {
    let mut found = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionEntry(body) = payload.expect("it is well formed") {
            found += Found::in_body(&body).expect("it is well formed").bulks.len();
        }
    }
    found
}

#[test]
fn each_operation_is_in_its_loop_alone() {
    let whole = wat::parse_str(WAT).expect("it is well formed");
    assert_eq!(bulk_operations(&whole), 3);
    // Small ones at once and the pieces of large ones, those of a copy from both sides.
    assert_eq!(bulk_operations(&rewrite(&whole).expect("it is well formed").wasm), 3 + 3 + 5);
}

#[test]
fn a_long_run_of_instructions_is_broken_by_loops() {
    let store = |at| format!("(i32.store (i32.const {at}) (i32.add (i32.load (i32.const {at})) (i32.const 7)))");
    // In blocks and behind a branch too, where nothing is reached.
    let stores: String = (0..1_000).map(|at| store(at * 4)).collect();
    let text = format!(
        r#"(component
             (core module $m (memory 1)
               (func (export "f") (result i32)
                 (block $out {stores} (if (i32.const 1) (then {stores} (br $out)) (else {stores})) {stores})
                 (i32.load (i32.const 3996))))
             (core instance $i (instantiate $m))
             (func (export "f") (result u32) (canon lift (core func $i "f"))))"#
    );
    let whole = wat::parse_str(text).expect("it is well formed");
    let cut = rewrite(&whole).expect("it is well formed").wasm;
    let mut longest = 0;
    for payload in Parser::new(0).parse_all(&cut) {
        if let Payload::CodeSectionEntry(body) = payload.expect("it is well formed") {
            let (mut straight, mut operators) = (0, body.get_operators_reader().expect("it is well formed"));
            while !operators.eof() {
                straight += 1;
                if matches!(operators.read().expect("it is well formed"), Operator::Loop { .. }) {
                    straight = 0;
                }
                longest = longest.max(straight);
            }
        }
    }
    assert!((1..=GUEST_STRAIGHT_OPERATORS_MAX + 1).contains(&longest), "{longest}");
    let engine = engine();
    let [before, after] = [whole, cut].map(|wasm| {
        let component = Component::from_binary(&engine, &wasm).expect("it is valid");
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &component).expect("it imports nothing");
        let f: TypedFunc<(), (u32,)> = instance.get_typed_func(&mut store, "f").expect("it exports this");
        f.call(&mut store, ()).expect("it returns").0
    });
    assert_eq!((before, after), (14, 14));
}

#[test]
fn a_component_without_any_stays_as_it_is() {
    let text = r#"(component (core module (memory 1) (func (export "f") (result i32) i32.const 7)) (component))"#;
    let wasm = wat::parse_str(text).expect("it is well formed");
    assert_eq!(rewrite(&wasm).expect("it is well formed").wasm, wasm);
}

#[test]
fn damage_is_an_error_and_no_more() {
    let wasm = wat::parse_str(WAT).expect("it is well formed");
    for cut in 0..wasm.len() {
        let _ = rewrite(&wasm[..cut]);
    }
    for at in 8..wasm.len() {
        let mut damaged = wasm.clone();
        damaged[at] ^= 0x55;
        let _ = rewrite(&damaged);
    }
}
