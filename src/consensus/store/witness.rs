//! A second, small memory of what was made durable, in a file beside sled.
//!
//! sled takes a damaged record for the end of its log and silently forgets it and everything behind it, at worst all
//! of it. The witness remembers the last vote and the last log id. It is written after sled's flush and not synced (it
//! may lag, never lead), except before a truncation, where it must not remember what is about to go.

use super::records;
use crate::{
    fsync,
    types::{LogId, Vote},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};
use zonekeeper_core::codec::{self, Kind};

/// The file's name.
pub(crate) const WITNESS: &str = "witness";

/// What an operation makes true of the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fact {
    /// The vote is this.
    Vote(Vote),
    /// The log ends here.
    Last(LogId),
    /// The log will end here: it gets shorter.
    Cut(Option<LogId>),
}

/// What is remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) vote: Option<Vote>,
    pub(super) last: Option<LogId>,
}

/// The open file.
pub(super) struct Witness {
    file: File,
    memory: Memory,
}

impl Witness {
    /// Opens the file; an unreadable one remembers nothing.
    pub(super) fn open(dir: &Path) -> io::Result<Witness> {
        let path = dir.join(WITNESS);
        let memory = match std::fs::read(&path) {
            Ok(bytes) => records::decode(Kind::Witness, &bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "the witness file does not read; it is written anew");
                Memory::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(error),
        };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        fsync::sync_dir(dir)?;
        Ok(Witness { file, memory })
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    /// Forgets what is about to be cut off, durably.
    pub(super) fn before(&mut self, facts: &[Fact]) -> io::Result<()> {
        let Some(Fact::Cut(last)) = facts.iter().find(|fact| matches!(fact, Fact::Cut(_))) else {
            return Ok(());
        };
        self.memory.last = *last;
        self.write()?;
        self.file.sync_all()
    }

    /// Remembers what is durable now.
    pub(super) fn after(&mut self, facts: &[Fact]) -> io::Result<()> {
        for fact in facts {
            match fact {
                Fact::Vote(vote) => self.memory.vote = Some(*vote),
                Fact::Last(last) => self.memory.last = Some(*last),
                Fact::Cut(_) => {}
            }
        }
        if facts.is_empty() { Ok(()) } else { self.write() }
    }

    fn write(&self) -> io::Result<()> {
        let record = codec::encode(Kind::Witness, &self.memory);
        self.file.write_all_at(&record, 0)?;
        self.file.set_len(record.len() as u64)
    }
}
