//! Snapshot files from node to node: in chunks, each acknowledged, from where the receiver left off. The deadline is
//! on progress and not on the whole, so a slow line takes its time and a dead one is noticed; chunks grow with what the
//! line carries ([`Pace`]), so that a snapshot does not stand in a heartbeat's way.

use crate::{
    network::{RpcError, rpc_error, unexpected},
    pace::Pace,
    snapshot,
    timing::SNAPSHOT_PROGRESS_MS,
    transport::Transport,
    types::{SnapshotMeta, TypeConfig, Vote},
    wire::{self, BulkCall, BulkReply, FileId},
};
use openraft::raft::SnapshotResponse;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom},
};
use zonekeeper_core::{State, codec, id::NodeId};
use zonekeeper_peer::Lane;

/// Bytes of one chunk at most: half of what the lane carries.
pub(crate) const CHUNK: usize = 512 << 10;
/// Largest file that is received: far above any sane state, far below a full disk by one bad peer.
const MAX_FILE: u64 = 8 << 30;

/// Sends a snapshot file and has it installed; none: the node has no data and waits to be let in.
pub(crate) async fn send(
    to: To<'_>,
    vote: Vote,
    meta: SnapshotMeta,
    path: &Path,
) -> Result<Option<SnapshotResponse<TypeConfig>>, RpcError> {
    // The open file survives its deletion by a newer snapshot.
    let mut source = File::open(path).await.map_err(unexpected)?;
    let len = source.metadata().await.map_err(unexpected)?.len();
    let file = FileId { meta, len };
    let mut have = match to.call(BulkCall::Offer(file.clone())).await? {
        BulkReply::Fresh => return Ok(None),
        reply => offset(reply)?,
    };
    while have < len {
        let room = (to.pace.room() as u64).min(len - have);
        let bytes = read_at(&mut source, have, room).await.map_err(unexpected)?;
        let chunk = BulkCall::Chunk { file: file.clone(), offset: have, bytes };
        let at = Instant::now();
        let reply = to.call(chunk).await;
        to.pace.took(room as usize, at.elapsed());
        let next = offset(reply?)?;
        if next <= have {
            return Err(unexpected("the receiver of a snapshot makes no progress"));
        }
        have = next;
    }
    match to.call(BulkCall::Install { vote, file }).await? {
        BulkReply::Installed(response) => Ok(Some(response)),
        BulkReply::Have(_) | BulkReply::Fresh => Err(unexpected("answer to another question")),
    }
}

/// Whom a snapshot goes to, and how fast.
pub(crate) struct To<'a> {
    pub(crate) transport: &'a dyn Transport,
    pub(crate) node: NodeId,
    pub(crate) pace: &'a mut Pace,
}

impl To<'_> {
    async fn call(&self, call: BulkCall) -> Result<BulkReply, RpcError> {
        let deadline = Duration::from_millis(SNAPSHOT_PROGRESS_MS);
        let reply = self.transport.call(self.node, Lane::Bulk, codec::bytes(&call), deadline);
        wire::decode(&reply.await.map_err(rpc_error)?).map_err(unexpected)
    }
}

fn offset(reply: BulkReply) -> Result<u64, RpcError> {
    match reply {
        BulkReply::Have(offset) => Ok(offset),
        BulkReply::Installed(_) | BulkReply::Fresh => Err(unexpected("answer to another question")),
    }
}

async fn read_at(file: &mut File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.seek(SeekFrom::Start(offset)).await?;
    file.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The one file that this node is receiving; a new offer replaces it.
#[derive(Default)]
pub(crate) struct Incoming {
    partial: Option<Partial>,
}

struct Partial {
    id: FileId,
    path: PathBuf,
    file: File,
    have: u64,
}

impl Incoming {
    /// Takes an offer; the bytes that are here already. `place` is where a new file goes.
    pub(crate) async fn offer(&mut self, place: impl FnOnce() -> PathBuf, id: FileId) -> io::Result<u64> {
        if id.len > MAX_FILE {
            return Err(io::Error::other(format!(
                "a snapshot of {} bytes is larger than {MAX_FILE}",
                id.len
            )));
        }
        if let Some(partial) = self.partial.as_ref().filter(|p| p.id == id) {
            return Ok(partial.have);
        }
        if let Some(old) = self.partial.take() {
            remove(&old.path).await;
        }
        let path = place();
        self.partial = Some(Partial { id, file: File::create(&path).await?, path, have: 0 });
        Ok(0)
    }

    /// Takes a chunk; the bytes that are here now. A chunk out of order changes nothing.
    pub(crate) async fn chunk(&mut self, id: &FileId, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let Some(partial) = self.partial.as_mut().filter(|p| p.id == *id) else {
            return Err(io::Error::other("the snapshot was not offered"));
        };
        if offset == partial.have && partial.have + bytes.len() as u64 <= id.len {
            // From where the acknowledged bytes end: a chunk before may have been written in part, and given up.
            partial.file.seek(SeekFrom::Start(partial.have)).await?;
            partial.file.write_all(bytes).await?;
            partial.file.flush().await?;
            partial.have += bytes.len() as u64;
        }
        Ok(partial.have)
    }

    /// Ends a transfer: the whole file, and where it is.
    pub(crate) fn finish(&mut self, id: &FileId) -> io::Result<PathBuf> {
        match self.partial.take_if(|p| p.id == *id && p.have == id.len) {
            Some(partial) => Ok(partial.path),
            None => Err(io::Error::other("the snapshot is not complete")),
        }
    }
}

/// Reads a received file, which must be what was announced.
pub(crate) async fn check(path: PathBuf, wanted: SnapshotMeta) -> io::Result<Arc<State>> {
    let check = move || -> io::Result<Arc<State>> {
        let (meta, state) = snapshot::read(&path)?;
        match meta == wanted {
            true => Ok(Arc::new(state)),
            false => Err(io::Error::other("the snapshot is another one than announced")),
        }
    };
    tokio::task::spawn_blocking(check).await.map_err(io::Error::other)?
}

/// Deletes a file that was received, unless it has its own name by now.
pub(crate) async fn remove(path: &Path) {
    // What stays is deleted at the next start.
    let _ = tokio::fs::remove_file(path).await;
}
