//! Child processes: the test binary runs itself with one of these "tests" by name. Without their variable they pass.
//!
//! None outlives its parent: the parent holds the other end of its standard input, and the end of that ends the child,
//! however the parent went. Nor does any live longer than [`LIFE`].

use super::{
    import,
    support::{PATIENCE, append, entry, open, runtime, size_of, vote},
};
use crate::types::TypeConfig;
use openraft::{
    storage::{IOFlushed, LogState, RaftLogStorage},
    type_config::TypeConfigExt,
};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

const DIR: &str = "ZK_TEST_CHILD_DIR";
/// Parts of the import: more than 1 MiB; with what stands before and behind them, a multiple of four entries.
pub(super) const IMPORT_PARTS: u32 = 17;
/// Longer than any test with children takes on a busy machine. Children end with their parent's pipe; this is for what
/// that does not end.
const LIFE: Duration = Duration::from_secs(900);

/// A child that writes to `dir`.
pub(super) struct Writer {
    process: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Writer {
    pub(super) fn start(name: &str, dir: &Path, env: &[(&str, &str)]) -> Writer {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("tests::child::{name}"),
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIR, dir)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tx.send(line)));
        Writer { stdin: process.stdin.take(), lines, process }
    }

    /// The number behind `word` in the next line that begins with it; none when the child ends first.
    pub(super) fn next(&self, word: &str) -> Option<u64> {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).ok()?;
            if let Some(number) = number(&line, word) {
                return Some(number);
            }
        }
    }

    pub(super) fn go_on(&mut self) {
        let _ = self.stdin.as_mut().map(|pipe| pipe.write_all(b"\n"));
    }

    /// Stops the child (SIGSTOP) for some work. The number in its last acknowledgement before it stopped, if there is
    /// a new one.
    pub(super) fn stopped(&mut self, work: impl FnOnce()) -> Option<u64> {
        let pid = self.process.id().to_string();
        // A process of its own lets the child go on, so that it does so even when this one is killed meanwhile.
        let mut guard = Command::new("sh")
            .args(["-c", "kill -STOP $0 && echo stopped && read _; kill -CONT $0", &pid])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "stopped\n");
        work();
        let last = self.lines.try_iter().filter_map(|line| number(&line, "ACKED")).last();
        drop(guard.stdin.take());
        guard.wait().unwrap();
        last
    }

    /// Closes the child's standard input.
    pub(super) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// The child closes its output in time: it has ended.
    pub(super) fn ends_by_itself(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(error) => return error == mpsc::RecvTimeoutError::Disconnected,
            }
        }
    }

    /// SIGKILL, and every line that was on its way.
    pub(super) fn kill(&mut self) -> impl Iterator<Item = String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.lines.iter()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The number behind `word`. The test harness prints its own text before the first line.
fn number(line: &str, word: &str) -> Option<u64> {
    let at = line.find(word)?;
    line[at + word.len()..].trim().parse().ok()
}

fn say(word: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word} {number}").unwrap();
    out.flush().unwrap();
}

/// Where this child writes, and a message for each line from its parent; none when this is no child.
fn child() -> Option<(PathBuf, mpsc::Receiver<()>)> {
    let dir = PathBuf::from(std::env::var_os(DIR)?);
    let (tx, told) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = tx.send(());
        }
        std::process::exit(1);
    });
    std::thread::spawn(|| {
        std::thread::sleep(LIFE);
        std::process::exit(1);
    });
    Some((dir, told))
}

/// Writes one entry after another, says so when each is acknowledged, and waits for a line at every tenth.
#[test]
#[ignore = "runs as a child of the power-cut test"]
fn write_and_wait() {
    let Some((dir, told)) = child() else { return };
    runtime().block_on(async {
        let mut store = open(&dir);
        store.save_vote(&vote()).await.unwrap();
        for index in 0.. {
            append(&mut store, [entry(index, size_of(index))]).await;
            if index % 10 == 9 {
                store.save_watermark(index).await.unwrap();
                say("ACKED", index);
                told.recv().unwrap();
            }
        }
    });
}

/// Writes an import and says what is acknowledged, and that it is published; waits for a line at every fourth entry.
#[test]
#[ignore = "runs as a child of the power-cut test"]
fn import_and_wait() {
    let Some((dir, told)) = child() else { return };
    runtime().block_on(async {
        let mut store = open(&dir);
        store.save_vote(&vote()).await.unwrap();
        for entry in import::log(IMPORT_PARTS) {
            let index = entry.log_id.index;
            append(&mut store, [entry]).await;
            if index % 4 == 3 {
                store.save_watermark(index).await.unwrap();
                say("ACKED", index);
                told.recv().unwrap();
            }
        }
    });
}

/// Size of entry `index` of [`write_for_ever`].
pub(super) fn small(index: u64) -> usize {
    size_of(index) % 4096 + 64
}

/// Writes without waiting and says what is acknowledged, until it is killed.
#[test]
#[ignore = "runs as a child of the kill test"]
fn write_for_ever() {
    let Some((dir, _told)) = child() else { return };
    runtime().block_on(async {
        let mut store = open(&dir);
        let LogState { last_log_id, .. } = store.get_log_state().await.unwrap();
        say("FOUND", last_log_id.map_or(0, |l| l.index + 1));
        store.save_vote(&vote()).await.unwrap();
        let mut next = last_log_id.map_or(0, |l| l.index + 1);
        let mut flights = std::collections::VecDeque::new();
        loop {
            let (tx, rx) = TypeConfig::oneshot();
            store.append([entry(next, small(next))], IOFlushed::signal(tx)).await.unwrap();
            next += 1;
            flights.push_back((next, rx));
            if flights.len() > 8 {
                let (count, rx) = flights.pop_front().unwrap();
                rx.await.unwrap().unwrap();
                say("ACKED", count);
            }
        }
    });
}
