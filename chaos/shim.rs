//! The shim that makes a node's clocks and fsyncs wrong (`shim.c`), and the file by which it is told how.

use crate::{
    lab::{Lab, LabError},
    process::monotonic_ns,
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
};

/// Environment of a node under the shim.
pub(crate) fn env() -> Vec<(String, String)> {
    vec![
        ("LD_PRELOAD".into(), "{FOLDER}/shim.so".into()),
        ("ZONEKEEPER_CHAOS_SHIM".into(), "{FOLDER}/shim-{ID}".into()),
    ]
}

/// Compiles it, and says that nothing is wrong with any node.
pub(crate) fn build(lab: &Lab) -> Result<(), LabError> {
    let (source, library) = (lab.folder().join("shim.c"), lab.folder().join("shim.so"));
    fs::write(&source, include_str!("shim.c"))?;
    let done =
        Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output()?;
    if !done.status.success() {
        return Err(LabError(format!("cc: {}", String::from_utf8_lossy(&done.stderr))));
    }
    (0..lab.nodes.len()).try_for_each(|i| fs::write(file(lab, i), [0u8; 56]))?;
    Ok(())
}

fn file(lab: &Lab, i: usize) -> PathBuf {
    lab.folder().join(format!("shim-{}", lab.nodes[i].id))
}

/// What is wrong with one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// By so many seconds its wall clock is wrong.
    pub(crate) seconds: i64,
    /// By so many millionths its clocks are too fast.
    pub(crate) ppm: i64,
    /// By so many milliseconds its fsyncs are too slow.
    pub(crate) slow_ms: i64,
    /// Its fsyncs fail.
    pub(crate) fail: bool,
}

/// What one node was told, with what its clocks have gained.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    sequence: i64,
    wrong: Wrong,
    base_ns: i64,
    gained_ns: i64,
}

impl Told {
    /// Tells a node what is wrong with it from now on. In place: a mapped file that is cut short for a moment kills the
    /// process that looks at it.
    pub(crate) fn tell(&mut self, lab: &Lab, i: usize, wrong: Wrong) -> Result<(), LabError> {
        if wrong == self.wrong {
            return Ok(());
        }
        let now = monotonic_ns()?; // the clock that the shim reads
        self.gained_ns += (now - self.base_ns) / 1000 * self.wrong.ppm / 1000;
        (self.base_ns, self.wrong) = (now, wrong);
        let file = File::options().write(true).open(file(lab, i))?;
        file.write_all_at(&(self.sequence + 1).to_le_bytes(), 0)?;
        let words =
            [wrong.seconds, wrong.ppm, self.base_ns, self.gained_ns, wrong.slow_ms, i64::from(wrong.fail)];
        file.write_all_at(&words.map(i64::to_le_bytes).concat(), 8)?;
        self.sequence += 2;
        file.write_all_at(&self.sequence.to_le_bytes(), 0)?;
        Ok(())
    }
}
