//! Snapshot files from node to node: in chunks, each acknowledged, from where the receiver left off. The deadline is
//! on progress and not on the whole, so a slow line takes its time and a dead one is noticed.

use crate::{
    network::{RpcError, rpc_error, unexpected},
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
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom},
};
use zonekeeper_core::{State, codec, id::NodeId};
use zonekeeper_peer::Lane;

/// Bytes of one chunk: half of what the lane carries.
const CHUNK: u64 = 512 << 10;
/// Largest file that is received: far above any sane state, far below a full disk by one bad peer.
const MAX_FILE: u64 = 8 << 30;

/// Sends a snapshot file and has it installed; none: the node has no data and waits to be let in.
pub(crate) async fn send(
    transport: &dyn Transport,
    to: NodeId,
    vote: Vote,
    meta: SnapshotMeta,
    path: &Path,
) -> Result<Option<SnapshotResponse<TypeConfig>>, RpcError> {
    // The open file survives its deletion by a newer snapshot.
    let mut source = File::open(path).await.map_err(unexpected)?;
    let len = source.metadata().await.map_err(unexpected)?.len();
    let file = FileId { meta, len };
    let mut have = match call(transport, to, BulkCall::Offer(file.clone())).await? {
        BulkReply::Fresh => return Ok(None),
        reply => offset(reply)?,
    };
    while have < len {
        let bytes = read_at(&mut source, have, CHUNK.min(len - have)).await.map_err(unexpected)?;
        let chunk = BulkCall::Chunk { file: file.clone(), offset: have, bytes };
        let next = offset(call(transport, to, chunk).await?)?;
        if next <= have {
            return Err(unexpected("the receiver of a snapshot makes no progress"));
        }
        have = next;
    }
    match call(transport, to, BulkCall::Install { vote, file }).await? {
        BulkReply::Installed(response) => Ok(Some(response)),
        BulkReply::Have(_) | BulkReply::Fresh => Err(unexpected("answer to another question")),
    }
}

async fn call(transport: &dyn Transport, to: NodeId, call: BulkCall) -> Result<BulkReply, RpcError> {
    let deadline = Duration::from_millis(SNAPSHOT_PROGRESS_MS);
    let reply = transport.call(to, Lane::Bulk, codec::bytes(&call), deadline).await.map_err(rpc_error)?;
    wire::decode(&reply).map_err(unexpected)
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
