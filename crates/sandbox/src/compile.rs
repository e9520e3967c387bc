//! Compiling a tenant's component in a process of its own.
//!
//! A component is foreign bytes, and what reads them is large: a parser, a validator, an optimizing compiler.
//! So they meet in a process that has nothing: no files, no sockets, no other user's memory, a bounded share of
//! the machine. It gets the wasm on stdin and answers one line of JSON and the artifact on stdout.

mod confine;
mod process;
mod rewrite;
mod turns;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use base::limits::{
    ARTIFACT_BYTES_MAX, COMPILE_TIME_MAX, COMPILES_WAITING_MAX, COMPILES_WAITING_PER_TENANT_MAX, COMPONENT_BYTES_MAX,
};
use base::{Bytes, Digest, TenantId};
use serde::{Deserialize, Serialize};

pub use confine::{ConfineError, confine};
pub use process::compile_process;

use crate::artifact::{Artifacts, Unfinished};
use process::{Found, Refused};
pub(crate) use rewrite::{PAGE_BYTES, marked};
use turns::{Turn, Turns};

/// How a component is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// It exports `wasi:http/incoming-handler@0.2.x`.
    Http02,
    /// It exports `wasi:http/handler@0.3.x`.
    Http03,
}

/// What a compiled component is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compiled {
    /// BLAKE3 of the wasm.
    pub component: Digest,
    /// Names of the interfaces it imports, sorted. [`crate::need`] tells what each asks for.
    pub imports: Vec<String>,
    pub flavour: Flavour,
}

/// The program that compiles, started once for each component: it must call [`compile_process`].
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The `firm` binary itself.
    pub program: PathBuf,
    /// What makes it call [`compile_process`].
    pub args: Vec<OsString>,
}

/// Why a component wasn't compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("this is not WebAssembly: it doesn't start with the bytes `\\0asm`")]
    NotWasm,
    #[error("this is a core WebAssembly module, not a component: {help}")]
    CoreModule { help: String },
    #[error("the component is invalid: {0}")]
    Invalid(String),
    #[error(
        "the component exports no HTTP handler (wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3); \
         it exports {}",
        list(exports)
    )]
    NoHttpExport { exports: Vec<String> },
    #[error("the component imports `{name}`, which nothing here provides")]
    UnknownImport { name: String },
    #[error("the component uses an interface in a form that this cloud doesn't provide: {0}")]
    Mismatch(String),
    #[error("the component is larger than {}", Bytes(COMPONENT_BYTES_MAX))]
    TooLarge,
    #[error("the compiled component is larger than {}", Bytes(ARTIFACT_BYTES_MAX))]
    ArtifactTooLarge,
    #[error("the component took longer than {} s to compile", COMPILE_TIME_MAX.as_secs())]
    OutOfTime,
    #[error("the compiler gave up ({0}): the component needs more memory than it may, or has found a fault in it")]
    Crashed(String),
    #[error(
        "{COMPILES_WAITING_PER_TENANT_MAX} components of this tenant are waiting to be compiled, or \
         {COMPILES_WAITING_MAX} of all tenants: push again in a minute"
    )]
    Busy,
    #[error("the compiler can't be started")]
    Start(#[source] io::Error),
    #[error("the compiled component can't be stored")]
    Store(#[source] io::Error),
}

fn list(exports: &[String]) -> String {
    if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") }
}

impl From<Refused> for CompileError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::CoreModule => Self::CoreModule {
                help: "build for the target wasm32-wasip2, or turn it into one with `wasm-tools component new`"
                    .to_owned(),
            },
            Refused::Invalid(reason) => Self::Invalid(reason),
            Refused::NoHttpExport(exports) => Self::NoHttpExport { exports },
            Refused::UnknownImport(name) => Self::UnknownImport { name },
            Refused::Mismatch(reason) => Self::Mismatch(reason),
            Refused::Broken(reason) => Self::Crashed(reason),
        }
    }
}

/// Unprivileged user and group of the compile process, if the node may choose: `nobody` and `nogroup`.
const NOBODY: u32 = 65_534;

/// Bytes of the compile process's first line: names of imports, or a sentence.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

/// Lets one component after another into the compile process.
pub(crate) struct Compilers {
    compiler: Compiler,
    /// Held open so that it can be started by a user who couldn't walk to its path.
    program: File,
    turns: Turns,
}

impl Compilers {
    pub(crate) fn new(compiler: Compiler) -> io::Result<Self> {
        let program = File::open(&compiler.program)?;
        Ok(Self { compiler, program, turns: Turns::default() })
    }

    /// Compilations that run now, and pushes that wait for one.
    pub(crate) fn queue(&self) -> (usize, usize) {
        self.turns.taken()
    }

    /// Compiles `wasm` for `tenant`, unless that was done before. The process is killed if the caller goes away.
    pub(crate) async fn compile(
        &self,
        artifacts: &Arc<Artifacts>,
        tenant: TenantId,
        wasm: &[u8],
    ) -> Result<Compiled, CompileError> {
        if wasm.len() as u64 > COMPONENT_BYTES_MAX {
            return Err(CompileError::TooLarge);
        }
        if !wasm.starts_with(b"\0asm") {
            return Err(CompileError::NotWasm);
        }
        let component = Digest::of(wasm);
        if let Some(done) = artifacts.find(tenant, component).map_err(CompileError::Store)? {
            return Ok(done);
        }
        let turn = self.turns.turn(tenant).await.map_err(|turns::Full| CompileError::Busy)?;
        // The one before may have compiled the same.
        if let Some(done) = artifacts.find(tenant, component).map_err(CompileError::Store)? {
            return Ok(done);
        }
        self.run(turn, Arc::clone(artifacts), tenant, component, wasm.to_vec()).await
    }

    async fn run(
        &self,
        turn: Turn,
        artifacts: Arc<Artifacts>,
        tenant: TenantId,
        component: Digest,
        wasm: Vec<u8>,
    ) -> Result<Compiled, CompileError> {
        let mut child = self.command().spawn().map_err(CompileError::Start)?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let child = Kill(Arc::new(Mutex::new(child)));
        let process = Arc::clone(&child.0);
        let (Some(mut stdin), Some(stdout)) = pipes else {
            return Err(CompileError::Start(io::ErrorKind::BrokenPipe.into()));
        };
        let work = tokio::task::spawn_blocking(move || {
            // Over only when the process and its file are gone, whoever has stopped waiting before.
            let _turn = turn;
            let unfinished = artifacts.begin().map_err(CompileError::Store)?;
            // It may have refused to read all: its answer says why.
            let _ = stdin.write_all(&wasm);
            drop((stdin, wasm));
            let answer = receive(stdout, unfinished);
            let (found, unfinished) = conclude(answer, end(&process))?;
            let Found { imports, flavour, contents, .. } = found;
            let compiled = Compiled { component, imports, flavour };
            artifacts.put(tenant, &compiled, &contents, &unfinished).map_err(CompileError::Store)?;
            Ok(compiled)
        });
        match tokio::time::timeout(COMPILE_TIME_MAX, work).await {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(panicked)) => Err(CompileError::Crashed(panicked.to_string())),
            Err(_) => Err(CompileError::OutOfTime),
        }
    }

    fn command(&self) -> Command {
        // By descriptor, not by path: `nobody` may start a program whose folder it can't enter. The child
        // looks this path up in its own table, before the descriptor closes itself on exec.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0("firm-compile").args(&self.compiler.args).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            // Std drops supplementary groups too.
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

/// Kills the process when dropped: at the deadline, or because nobody waits for it any more. The thread that
/// reads from it then sees the end of its answer and cleans up.
struct Kill(Arc<Mutex<Child>>);

impl Drop for Kill {
    fn drop(&mut self) {
        // An error says that it has ended.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }
}

/// Its answer is read; what it might still do is of no interest. One that has ended by itself keeps its status.
fn end(process: &Mutex<Child>) -> io::Result<ExitStatus> {
    let mut child = process.lock().unwrap_or_else(PoisonError::into_inner);
    // An error says that it has ended.
    let _ = child.kill();
    child.wait()
}

enum Answer {
    Found(Found, Unfinished),
    Refused(Refused),
    TooLarge,
    Garbled,
    Store(io::Error),
}

/// Reads the answer to its end. The artifact goes straight to its file.
fn receive(stdout: ChildStdout, mut unfinished: Unfinished) -> Answer {
    let mut stdout = BufReader::with_capacity(1 << 18, stdout);
    let mut line = Vec::new();
    if stdout.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line).is_err() {
        return Answer::Garbled;
    }
    match serde_json::from_slice(&line) {
        Err(_) => Answer::Garbled,
        Ok(Err(refused)) => Answer::Refused(refused),
        Ok(Ok(found)) => match io::copy(&mut stdout, &mut unfinished) {
            Ok(_) => Answer::Found(found, unfinished),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Answer::TooLarge,
            Err(error) => Answer::Store(error),
        },
    }
}

fn conclude(answer: Answer, status: io::Result<ExitStatus>) -> Result<(Found, Unfinished), CompileError> {
    let ended = |status: io::Result<ExitStatus>| match status {
        Ok(status) => match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => status.to_string(),
        },
        Err(error) => error.to_string(),
    };
    match (answer, status) {
        (Answer::Refused(refused), _) => Err(refused.into()),
        (Answer::TooLarge, _) => Err(CompileError::ArtifactTooLarge),
        (Answer::Store(error), _) => Err(CompileError::Store(error)),
        (Answer::Found(found, unfinished), _) if unfinished.bytes() == found.bytes => Ok((found, unfinished)),
        (Answer::Found(..) | Answer::Garbled, status) => Err(CompileError::Crashed(ended(status))),
    }
}
