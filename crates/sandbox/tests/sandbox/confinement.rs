//! What the compile process can't do, tried from inside.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, ExitCode, Stdio};

use base::limits::COMPILE_MEMORY_MAX;
use rustix::process::{Resource, Rlimit, Signal};
use sandbox::CompileError;

use crate::guests::hello;
use crate::world::{World, on_a_core};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("the_compile_process_cannot_get_out", the_compile_process_cannot_get_out),
    ("the_compile_process_is_nobody_and_knows_nothing", the_compile_process_is_nobody_and_knows_nothing),
];

/// Tries everything, and prints what succeeded.
pub(crate) fn escape() -> ExitCode {
    let parent = rustix::process::getppid();
    if let Err(error) = sandbox::confine() {
        println!("not confined: {}", base::chain(&error));
        return ExitCode::FAILURE;
    }
    let more = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    let too_much = usize::try_from(2 * COMPILE_MEMORY_MAX).unwrap_or(usize::MAX);
    let tries: [(&str, bool); 18] = [
        ("read a file", File::open("/etc/passwd").is_ok()),
        ("read a device", File::open("/dev/null").is_ok()),
        ("read what it may of the kernel", File::open("/proc/self/status").is_ok()),
        ("list a folder", std::fs::read_dir("/").is_ok()),
        ("make a file", File::create("/tmp/firmament-escape").is_ok()),
        ("make a folder", std::fs::create_dir("/tmp/firmament-escape-folder").is_ok()),
        ("remove a file", std::fs::remove_file("/tmp/firmament-escape").is_ok()),
        ("connect by TCP", TcpStream::connect("127.0.0.1:9").is_ok()),
        ("listen by TCP", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("open a UDP socket", UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("open a Unix socket", UnixDatagram::unbound().is_ok()),
        ("make a pair of sockets", UnixStream::pair().is_ok()),
        ("run a program", Command::new("/bin/true").status().is_ok()),
        ("signal its parent", parent.is_none_or(|parent| rustix::process::kill_process(parent, Signal::USR1).is_ok())),
        ("raise a limit", rustix::process::setrlimit(Resource::Nofile, more).is_ok()),
        ("be dumped", rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).is_ok()),
        ("leave its session", rustix::process::setsid().is_ok()),
        ("take more memory", Vec::<u8>::new().try_reserve_exact(too_much).is_ok()),
    ];
    for (name, _) in tries.iter().filter(|(_, succeeded)| *succeeded) {
        println!("it could {name}");
    }
    // What a compiler needs still works.
    let sum = std::thread::Builder::new().name("worker".to_owned()).spawn(|| vec![1_u8; 1 << 20].len());
    match sum.map(std::thread::JoinHandle::join) {
        Ok(Ok(_)) => println!("tried"),
        _ => println!("it could not start a thread"),
    }
    ExitCode::SUCCESS
}

/// Answers as if the component were to blame, with what this process knows of itself.
pub(crate) fn whoami() -> ExitCode {
    let user = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    let groups = rustix::process::getgroups().map_or(usize::MAX, |groups| groups.len());
    let environment = std::env::vars().count();
    let folder = std::env::current_dir().unwrap_or_default();
    println!(r#"{{"Err":{{"invalid":"{user} {group} {groups} {environment} {}"}}}}"#, folder.display());
    ExitCode::SUCCESS
}

fn the_compile_process_cannot_get_out() {
    let program = std::env::current_exe().expect("this program has a path");
    let tried = Command::new(program).arg("escape").stdin(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&tried.stdout).into_owned();
    assert_eq!((said.as_str(), tried.status.code()), ("tried\n", Some(0)));
}

fn the_compile_process_is_nobody_and_knows_nothing() {
    let said = on_a_core(async {
        match World::compiled_by("whoami").compile(&hello()).await {
            Err(CompileError::Invalid(said)) => said,
            other => panic!("{other:?}"),
        }
    });
    let user = if rustix::process::geteuid().is_root() { 65_534 } else { rustix::process::getuid().as_raw() };
    let group = if rustix::process::geteuid().is_root() { 65_534 } else { rustix::process::getgid().as_raw() };
    assert!(said.starts_with(&format!("{user} {group} ")), "{said}");
    assert!(said.ends_with(" 0 /"), "{said}");
}
