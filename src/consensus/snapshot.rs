//! Snapshots in ordinary files: sled keeps large values in files that it never syncs.
//!
//! ```text
//! snap-<index>-<term>-<node>.zks      header record, then chunk records; each in an envelope with its checksum
//! *.tmp                               being written or received; deleted at start
//! ```
//!
//! A file is written under a temporary name, synced, renamed, and the directory synced, so a name is a whole snapshot.
//! The two newest are kept: a transfer to a lagging node may still read the older one.

use crate::{
    fsync::{self, Patience},
    types::SnapshotMeta,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use zonekeeper_core::{
    State,
    codec::{self, CodecError, HEADER, Kind, OVERHEAD},
};

/// Bytes of the state in one chunk.
const CHUNK: usize = 1 << 20;
/// Largest header: two log ids and a membership of thousands of nodes.
const MAX_HEADER: usize = 1 << 20;
/// Files that are kept.
const KEEP: usize = 2;

/// First record of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) meta: SnapshotMeta,
    /// Bytes of the encoded state.
    pub(crate) len: u64,
    /// Hash of the state, compared after decoding.
    pub(crate) hash: u128,
}

/// Why a snapshot file was refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file could not be read.
    #[error("snapshot {0} does not read: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// A record of the file is damaged.
    #[error("snapshot {0} is damaged in record {1}: {2}")]
    Record(PathBuf, usize, #[source] CodecError),
    /// The records do not belong together.
    #[error("snapshot {0} is damaged: {1}")]
    Content(PathBuf, &'static str),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The directory of snapshot files.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    /// One writes at a time: a Raft that was replaced may still build the snapshot that its successor begins, under
    /// the same temporary name, or delete the file that a received one is about to delete.
    writing: Arc<Mutex<()>>,
    /// Names given by [`SnapshotDir::incoming`].
    received: Arc<AtomicU64>,
}

impl SnapshotDir {
    /// Takes a directory into use and deletes what was not finished.
    pub(crate) fn new(path: PathBuf) -> io::Result<SnapshotDir> {
        for entry in std::fs::read_dir(&path)? {
            let file = entry?.path();
            if file.extension().is_some_and(|e| e == "tmp") {
                std::fs::remove_file(file)?;
            }
        }
        Ok(SnapshotDir { path, writing: Arc::default(), received: Arc::default() })
    }

    /// The newest snapshot, decoded; none when there is none.
    pub(crate) fn load(&self) -> Result<Option<(SnapshotMeta, State)>, SnapshotError> {
        let files = self.files().map_err(|error| SnapshotError::Io(self.path.clone(), error))?;
        files.last().map(|path| read(path)).transpose()
    }

    /// Where the snapshot with this meta lies.
    pub(crate) fn file(&self, meta: &SnapshotMeta) -> PathBuf {
        self.path.join(name(meta))
    }

    /// Where one is received: a new place each time, since the one before may be on its way to its name.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.path.join(format!("incoming-{}.tmp", self.received.fetch_add(1, Ordering::Relaxed)))
    }

    /// Writes a snapshot durably. Blocking.
    pub(crate) fn write(&self, meta: &SnapshotMeta, state: &State) -> io::Result<PathBuf> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.file(meta);
        let tmp = path.with_extension("tmp");
        let patience = Patience::new();
        let mut out = BufWriter::new(patience.open(|| File::create(&tmp))?);
        write(&mut out, meta, state)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        self.publish(&tmp, &path, &patience)?;
        Ok(path)
    }

    /// Deletes all snapshots, durably. Blocking.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Patience::new();
        patience.open(|| self.files())?.iter().try_for_each(std::fs::remove_file)?;
        patience.open(|| fsync::sync_dir(&self.path))
    }

    /// Gives a received and checked file its name, durably. Blocking.
    pub(crate) fn adopt(&self, received: &Path, name: &Path) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Patience::new();
        patience.open(|| File::open(received))?.sync_all()?;
        self.publish(received, name, &patience)
    }

    fn publish(&self, tmp: &Path, path: &Path, patience: &Patience) -> io::Result<()> {
        std::fs::rename(tmp, path)?;
        patience.open(|| fsync::sync_dir(&self.path))?;
        let files = patience.open(|| self.files())?;
        for old in files.iter().rev().skip(KEEP) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }

    /// Whole snapshots, oldest first: the index in the name has a fixed width.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "zks") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn name(meta: &SnapshotMeta) -> String {
    let (index, term, node) = match meta.last_log_id {
        Some(id) => (id.index, id.leader_id.term, id.leader_id.node_id),
        None => (0, 0, 0),
    };
    format!("snap-{index:020}-{term}-{node}.zks")
}

/// Writes a snapshot as records.
pub(crate) fn write(out: &mut impl Write, meta: &SnapshotMeta, state: &State) -> io::Result<()> {
    let payload = codec::bytes(state);
    let header = Header { meta: meta.clone(), len: payload.len() as u64, hash: state.hash() };
    out.write_all(&codec::encode(Kind::SnapshotHeader, &header))?;
    for (number, part) in payload.chunks(CHUNK).enumerate() {
        let mut chunk = Vec::with_capacity(part.len() + 4);
        chunk.extend_from_slice(&(number as u32).to_le_bytes());
        chunk.extend_from_slice(part);
        out.write_all(&codec::seal(Kind::SnapshotChunk, &chunk))?;
    }
    Ok(())
}

/// Reads a whole file and checks all of it. Blocking.
pub(crate) fn read(path: &Path) -> Result<(SnapshotMeta, State), SnapshotError> {
    let io = |error| SnapshotError::Io(path.to_path_buf(), error);
    let content = |what| SnapshotError::Content(path.to_path_buf(), what);
    let record = |number| move |error| SnapshotError::Record(path.to_path_buf(), number, error);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut file = BufReader::new(file);

    let bytes = next(&mut file, Kind::SnapshotHeader, MAX_HEADER, path, 0)?;
    let header: Header = codec::decode(Kind::SnapshotHeader, &bytes, MAX_HEADER).map_err(record(0))?;
    if header.len > size {
        return Err(content("it is shorter than its header says"));
    }
    let mut payload = Vec::with_capacity(header.len as usize);
    for number in 0..header.len.div_ceil(CHUNK as u64) as usize {
        let bytes = next(&mut file, Kind::SnapshotChunk, CHUNK + 4, path, number + 1)?;
        let chunk = codec::open(Kind::SnapshotChunk, &bytes, CHUNK + 4).map_err(record(number + 1))?;
        match chunk.split_first_chunk::<4>() {
            Some((n, part)) if u32::from_le_bytes(*n) as usize == number => payload.extend_from_slice(part),
            _ => return Err(content("its chunks are out of order")),
        }
    }
    if payload.len() as u64 != header.len || file.read(&mut [0]).map_err(io)? != 0 {
        return Err(content("its length is not what its header says"));
    }
    let state: State = codec::from_trusted(&payload).map_err(record(0))?;
    if state.hash() != header.hash {
        return Err(content("the state's hash is not what its header says"));
    }
    Ok((header.meta, state))
}

fn next(
    file: &mut impl Read,
    kind: Kind,
    limit: usize,
    path: &Path,
    number: usize,
) -> Result<Vec<u8>, SnapshotError> {
    let io = |error| SnapshotError::Io(path.to_path_buf(), error);
    let mut bytes = vec![0; HEADER];
    file.read_exact(&mut bytes).map_err(io)?;
    let len = codec::payload_len(kind, &bytes, limit)
        .map_err(|error| SnapshotError::Record(path.to_path_buf(), number, error))?;
    bytes.resize(len + OVERHEAD, 0);
    file.read_exact(&mut bytes[HEADER..]).map_err(io)?;
    Ok(bytes)
}
