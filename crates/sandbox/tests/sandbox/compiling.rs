//! What comes in as a component, and what is kept of it.

use std::time::Duration;

use base::{Digest, TenantId};
use futures_util::FutureExt;
use sandbox::{CompileError, Flavour, Keep, LoadError};

use crate::guests::hello;
use crate::world::{TENANT, World, ends_in, on_a_core, text};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_component_is_compiled_once", a_component_is_compiled_once),
    ("what_is_no_component_is_refused_by_name", what_is_no_component_is_refused_by_name),
    ("broken_components_are_refused_and_leave_nothing", broken_components_are_refused_and_leave_nothing),
    ("tenants_share_no_artifact", tenants_share_no_artifact),
    ("a_damaged_artifact_never_runs", a_damaged_artifact_never_runs),
    ("a_component_that_nobody_wants_is_swept", a_component_that_nobody_wants_is_swept),
    ("a_compilation_that_nobody_waits_for_leaves_nothing", a_compilation_that_nobody_waits_for_leaves_nothing),
];

fn a_component_is_compiled_once() {
    on_a_core(async {
        let world = World::new();
        let wasm = hello();
        let missing = world.sandbox.load(TENANT, Digest::of(&wasm));
        assert!(matches!(missing, Err(LoadError::Missing(_))));
        let compiled = world.compile(&wasm).await.expect("it compiles");
        assert_eq!(compiled.flavour, Flavour::Http02);
        assert_eq!(
            compiled.imports,
            ["wasi:cli/stdout@0.2.0", "wasi:http/types@0.2.0", "wasi:io/error@0.2.0", "wasi:io/streams@0.2.0"]
        );
        let files = world.files();
        assert_eq!(files.len(), 2, "{files:?}");
        let again = world.compile(&wasm).await.expect("it is there");
        assert_eq!(again, compiled);
        assert_eq!(world.files(), files);
        assert!(world.sandbox.loaded(TENANT, compiled.component).is_none(), "nothing is mapped unasked");
        world.load(compiled.component);
        assert!(world.sandbox.loaded(TENANT, compiled.component).is_some());
    });
}

fn what_is_no_component_is_refused_by_name() {
    on_a_core(async {
        let world = World::new();
        let refused = async |wasm: &[u8]| world.compile(wasm).await.expect_err("it is refused");
        let of_text = |text: &str| wat::parse_str(text).expect("it is well formed");
        assert!(matches!(refused(b"").await, CompileError::NotWasm));
        assert!(matches!(refused(b"<!doctype html>").await, CompileError::NotWasm));
        assert!(matches!(refused(b"\0asm").await, CompileError::Invalid(_)));
        assert!(matches!(refused(&of_text("(module)")).await, CompileError::CoreModule { .. }));
        let error = refused(&of_text("(component)")).await;
        assert!(matches!(&error, CompileError::NoHttpExport { exports } if exports.is_empty()), "{error}");
        let error = refused(&of_text(r#"(component (import "acme:thing/api@1.0.0" (instance)))"#)).await;
        assert!(matches!(&error, CompileError::UnknownImport { name } if name == "acme:thing/api@1.0.0"), "{error}");
        let wrong = r#"(component
            (import "wasi:cli/environment@0.2.0" (instance (export "get-environment" (func (result u32)))))
            (component $empty) (instance $none (instantiate $empty))
            (export "wasi:http/incoming-handler@0.2.0" (instance $none)))"#;
        let error = refused(&of_text(wrong)).await;
        assert!(matches!(&error, CompileError::Mismatch(_)), "{error}");
        assert!(world.files().is_empty(), "{:?}", world.files());
    });
}

fn broken_components_are_refused_and_leave_nothing() {
    on_a_core(async {
        let world = World::new();
        let whole = hello();
        for part in 1..12 {
            let cut = &whole[..whole.len() * part / 12];
            world.compile(cut).await.expect_err("half a component is none");
        }
        for at in (8..whole.len()).step_by(whole.len() / 16) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            // It may be that it's still a component; what counts is that there is an answer.
            if let Err(error) = world.compile(&changed).await {
                assert!(!matches!(error, CompileError::Crashed(_)), "byte {at}: {error}");
            }
        }
        assert!(world.files().iter().all(|path| !ends_in(path, "tmp")), "{:?}", world.files());
    });
}

fn tenants_share_no_artifact() {
    on_a_core(async {
        let world = World::new();
        let compiled = world.compile(&hello()).await.expect("it compiles");
        let other = world.sandbox.load(TenantId(8), compiled.component);
        assert!(matches!(other, Err(LoadError::Missing(_))));
    });
}

fn a_damaged_artifact_never_runs() {
    on_a_core(async {
        let world = World::new();
        let compiled = world.compile(&hello()).await.expect("it compiles");
        let files = world.files();
        let artifact = files.iter().find(|path| ends_in(path, "cwasm")).expect("it is there");
        let mut bytes = std::fs::read(artifact).expect("it can be read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(artifact, bytes).expect("it can be written");
        let damaged = world.sandbox.load(TENANT, compiled.component);
        assert!(matches!(damaged, Err(LoadError::Damaged(_))));
        assert!(world.files().is_empty(), "it is out of the way");
        let program = world.program(&hello()).await;
        let response = world.ask(&program, world.cell()).await.expect("compiled anew, it answers");
        assert_eq!(text(response).await.expect("it is whole"), "xxxxx");
    });
}

fn a_component_that_nobody_wants_is_swept() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&hello()).await;
        world.sandbox.sweep(&Keep::new(), Duration::ZERO).expect("it can be removed");
        assert!(world.files().is_empty());
        assert!(world.sandbox.loaded(TENANT, program.component()).is_none());
        assert!(world.ask(&program, world.cell()).await.is_ok(), "who holds it may go on");
    });
}

fn a_compilation_that_nobody_waits_for_leaves_nothing() {
    on_a_core(async {
        let world = World::new();
        let wasm = hello();
        let mut abandoned = Box::pin(world.compile(&wasm));
        // It has been started by the first poll.
        assert!((&mut abandoned).now_or_never().is_none());
        drop(abandoned);
        // The next has its turn only when the first is over.
        world.compile(&wasm).await.expect("it compiles");
        let left = world.files();
        assert!(left.iter().all(|path| !ends_in(path, "tmp")), "{left:?}");
    });
}
