//! What all tests share: whose turn it is, the laboratory, the tools, waiting.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    lab::{Lab, Options},
    process,
};

/// The binary under test.
pub(crate) fn exe() -> PathBuf {
    std::env::var_os("ZONEKEEPER_EXE").map_or_else(|| env!("CARGO_BIN_EXE_zonekeeper").into(), PathBuf::from)
}

static TURN: RwLock<()> = RwLock::new(());

/// For a test that measures: one laboratory at a time, on two cores several would only measure each other.
pub(crate) fn turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that does not measure: its laboratory runs beside others of its kind.
pub(crate) fn share() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Options with the binary under test.
pub(crate) fn options() -> Options {
    Options::new(exe())
}

/// A laboratory that is up; says what each node said when it is not.
#[track_caller]
pub(crate) fn lab(options: Options) -> Lab {
    Lab::start(options, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// Whether every tool is there. Without one the test says so, and fails where everything is meant to run.
pub(crate) fn tools(names: &[&str]) -> bool {
    let there = |name: &str| Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
    let missing: Vec<&&str> =
        names.iter().filter(|n| !there(n).is_ok_and(|done| done.status.success())).collect();
    missing.is_empty() || not_run(&format!("{missing:?} not found"))
}

/// Says loudly that a test did not run; under `CI` that is a failure.
pub(crate) fn not_run(why: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "NOT RUN, and CI is set: {why}");
    eprintln!("NOT RUN: {why}");
    false
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < end, "waited {within:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something holds; with the end of the nodes' logs when it does not.
#[track_caller]
pub(crate) fn wait(lab: &Lab, what: &str, within: Duration, holds: impl Fn(&Lab) -> bool) {
    lab.wait(what, within, holds).unwrap_or_else(|e| panic!("{e}"));
}

/// Runs a program; its whole output, whatever its status.
#[track_caller]
pub(crate) fn output(program: &str, args: &[&str]) -> Output {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output();
    done.unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// An address on loopback that no other test of this machine uses, within reason; any port on it is free.
pub(crate) fn address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = 1 + (std::process::id() % 250) as u8;
    Ipv4Addr::new(127, process, 240, NEXT.fetch_add(1, Relaxed)).into()
}

/// A child process that is killed when it is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts a command without input.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Process {
        let started = command.stdin(Stdio::null()).spawn();
        Process(started.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.terminate();
        self.ended();
    }

    /// SIGTERM.
    #[track_caller]
    pub(crate) fn terminate(&self) {
        process::send(&self.0, process::Signal::Terminate);
    }

    /// Waits for the end, which is an orderly one.
    #[track_caller]
    pub(crate) fn ended(&mut self) {
        let mut ended = None;
        until("the process ends", Duration::from_secs(30), || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "SIGTERM is no failure: {ended:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
