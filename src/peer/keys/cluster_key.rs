//! The cluster key: what the common secrets are sealed under (AES-256-GCM) before they enter the log.
//!
//! `cluster.key` holds a line per key, the newest first: one in use, and some before it, so that a backup from before a
//! rotation can be read. A line is `zkkey1-<cluster id>-<256 bits>`, both in hex. A seal binds the cluster's id and the
//! caller's context as associated data; its nonce is random, which is safe for far more seals (2^32) than a cluster makes.

use super::{error::KeyError, file};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use zonekeeper_core::secrets::KeyId;

/// Name of the file in the key folder.
pub const FILE: &str = "cluster.key";
/// First part of a key's text.
const PREFIX: &str = "zkkey1";
/// What else a seal binds: that it is one of ours, and of this form.
const LABEL: &[u8] = b"zonekeeper sealed secret 1";
/// What a file that could not be read is called once there is another.
const UNREAD: &str = "cluster.key.unread";
/// Keys that a folder holds at most.
const KEPT: usize = 16;

/// A 256-bit key of one cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    cluster: u128,
    key: [u8; 32],
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.id()) // never in a log
    }
}

impl FromStr for ClusterKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<ClusterKey, KeyError> {
        let bad =
            || KeyError::bad("cluster key", format!("expected {PREFIX}-<32 hex digits>-<64 hex digits>"));
        let mut parts = text.trim().split('-');
        let (Some(PREFIX), Some(cluster), Some(key), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex(cluster, 32) || !hex(key, 64) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&key[at..at + 2], 16).map_err(|_| bad())?;
        }
        Ok(ClusterKey { cluster: u128::from_str_radix(cluster, 16).map_err(|_| bad())?, key: bytes })
    }
}

impl ClusterKey {
    /// A new random key.
    pub fn generate(cluster: u128) -> Result<ClusterKey, KeyError> {
        Ok(ClusterKey { cluster, key: random()? })
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> u128 {
        self.cluster
    }

    /// Which key it is; tells nothing about it.
    pub fn id(&self) -> KeyId {
        let mut hash = Sha256::new_with_prefix(b"zonekeeper cluster key");
        hash.update(self.cluster.to_be_bytes());
        hash.update(self.key);
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        KeyId(u64::from_be_bytes(id))
    }

    /// The key as a line of its file. Secret.
    pub fn text(&self) -> String {
        let key: String = self.key.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}-{:032x}-{key}", self.cluster)
    }

    /// Seals a secret; only the same context opens it.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = || KeyError::Crypto { action: "seal a secret", why: "the library refuses".into() };
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = plain.to_vec();
        let done = self.aead().and_then(|aead| {
            let aad = Aad::from(self.bound(context));
            aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()
        });
        done.ok_or_else(failed)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// What [`ClusterKey::seal`] sealed; none: not with this key, not for this context, or it was changed.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let (nonce, aad) = (Nonce::assume_unique_for_key(*nonce), Aad::from(self.bound(context)));
        let len = self.aead()?.open_in_place(nonce, aad, &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }

    fn aead(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &self.key).ok().map(LessSafeKey::new)
    }

    /// The lengths of label and id are fixed, so no two pairs of cluster and context give the same bytes.
    fn bound(&self, context: &[u8]) -> Vec<u8> {
        [LABEL, &self.cluster.to_be_bytes(), context].concat()
    }
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| KeyError::Crypto { action: "make a random number", why: e.to_string() })?;
    Ok(bytes)
}

/// Writes the first key of a new key folder.
pub fn save_first(dir: &Path, key: &ClusterKey) -> Result<(), KeyError> {
    file::folder(dir)?;
    write(dir, std::slice::from_ref(key))
}

fn write(dir: &Path, keys: &[ClusterKey]) -> Result<(), KeyError> {
    let text: String = keys.iter().map(|key| key.text() + "\n").collect();
    file::write(&dir.join(FILE), &text, 0o600)
}

fn read(dir: &Path) -> Result<Vec<ClusterKey>, KeyError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = file::read_private(&path)?;
    let parse = |(number, line): (usize, &str)| {
        line.parse()
            .map_err(|e| KeyError::bad(format!("{} line {}", path.display(), number + 1), format!("{e}")))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// The cluster keys of one node: its `cluster.key`, in memory and on disk. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    keys: Mutex<Vec<ClusterKey>>,
    problem: Mutex<Option<String>>,
    changes: watch::Sender<u64>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().iter()).finish()
    }
}

impl Keyring {
    /// Reads the keys of a folder. One that cannot be read is as one without: a node serves without the common secrets,
    /// says why ([`Keyring::problem`]), and asks the others.
    pub fn load(dir: &Path) -> Keyring {
        let (keys, problem) = match read(dir) {
            Ok(keys) => (keys, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let (changes, _) = watch::channel(0);
        Keyring(Arc::new(Inner { dir: dir.into(), keys: keys.into(), problem: problem.into(), changes }))
    }

    fn keys(&self) -> MutexGuard<'_, Vec<ClusterKey>> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the file was not read at the start, while that matters.
    pub fn problem(&self) -> Option<String> {
        self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One key.
    pub fn get(&self, id: KeyId) -> Option<ClusterKey> {
        self.keys().iter().find(|key| key.id() == id).cloned()
    }

    /// Whether the key is there.
    pub fn has(&self, id: KeyId) -> bool {
        self.get(id).is_some()
    }

    /// The newest key of a cluster.
    pub fn newest(&self, cluster: u128) -> Option<ClusterKey> {
        self.keys().iter().find(|key| key.cluster == cluster).cloned()
    }

    /// Adds a key, durably; of too many the oldest that is not `needed` goes. Blocking.
    pub fn add(&self, key: ClusterKey, needed: &[KeyId]) -> Result<(), KeyError> {
        let mut keys = self.keys();
        if keys.contains(&key) {
            return Ok(());
        }
        let mut next = vec![key];
        next.extend(keys.iter().cloned());
        while next.len() > KEPT
            && let Some(at) = next.iter().rposition(|key| !needed.contains(&key.id()))
        {
            next.remove(at);
        }
        let mut problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.is_some() {
            let (from, to) = (self.0.dir.join(FILE), self.0.dir.join(UNREAD));
            file::rename(&from, &to).map_err(|source| KeyError::Write { path: to, source })?;
            *problem = None;
        }
        file::folder(&self.0.dir)?;
        write(&self.0.dir, &next)?;
        *keys = next;
        self.0.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Changes with each key that comes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Seals a secret under a key of the ring; none: it is not there, or the library refuses.
    pub fn seal(&self, key: KeyId, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        self.get(key)?.seal(context, plain).ok()
    }

    /// Opens what was sealed under a key of the ring.
    pub fn open(&self, key: KeyId, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.get(key)?.open(context, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn key(cluster: u128) -> ClusterKey {
        ClusterKey::generate(cluster).unwrap()
    }

    #[test]
    fn a_seal_opens_with_its_key_and_its_context_and_with_nothing_else() {
        let mine = key(7);
        let sealed = mine.seal(b"\x01", b"a common secret").unwrap();
        assert_eq!(mine.open(b"\x01", &sealed).as_deref(), Some(b"a common secret".as_slice()));
        assert!(!sealed.windows(6).any(|w| w == b"common"));
        assert_ne!(mine.seal(b"\x01", b"a common secret").unwrap(), sealed, "a nonce is used once");
        assert_eq!(mine.open(b"\x02", &sealed), None, "another purpose");
        assert_eq!(mine.open(b"\x01x", &sealed), None, "another name");
        assert_eq!(key(7).open(b"\x01", &sealed), None, "another key");
        let elsewhere = ClusterKey { cluster: 8, ..mine.clone() };
        assert_eq!(elsewhere.open(b"\x01", &sealed), None, "another cluster");
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(mine.open(b"\x01", &changed), None, "byte {i}");
            assert_eq!(mine.open(b"\x01", &sealed[..i]), None, "{i} bytes");
        }
    }

    #[test]
    fn a_key_survives_its_text_and_hides_from_logs() {
        let mine = key(0xabc);
        let text = mine.text();
        assert_eq!(text.parse::<ClusterKey>().unwrap(), mine);
        let shown = format!("{mine:?}");
        assert!(shown.contains(&mine.id().to_string()) && !shown.contains(&text[40..]), "{shown}");
        assert_ne!(mine.id(), ClusterKey { cluster: 1, ..mine.clone() }.id());
        let ascii = |text: &str| text.parse::<ClusterKey>().is_err();
        for bad in
            ["", "zkkey1", &text[1..], &text[..text.len() - 1], &format!("{text}-0"), &text.replace('z', "é")]
        {
            assert!(ascii(bad), "{bad}");
        }
        assert!(ascii(&text.replace("zkkey1-0", "zkkey1-+")));
    }

    #[test]
    fn a_folder_keeps_its_keys_for_the_owner_alone_and_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::load(dir.path());
        assert!(ring.newest(7).is_none() && ring.problem().is_none());
        let first = key(7);
        ring.add(first.clone(), &[]).unwrap();
        let mut news = ring.subscribe();
        let needed = [first.id()];
        for _ in 0..2 * KEPT {
            ring.add(key(7), &needed).unwrap();
        }
        assert!(news.has_changed().unwrap() && *news.borrow_and_update() > 2);
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), KEPT);
        let again = Keyring::load(dir.path());
        assert!(again.has(first.id()), "a needed one stays");
        assert_eq!(again.newest(7), ring.newest(7));
        assert_eq!(again.newest(8), None, "another cluster's");
        let sealed = ring.seal(first.id(), b"x", b"plain").unwrap();
        assert_eq!(again.open(first.id(), b"x", &sealed).as_deref(), Some(b"plain".as_slice()));
        assert_eq!(again.open(key(7).id(), b"x", &sealed), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_said_and_replaced_by_what_the_others_give() {
        let dir = tempfile::tempdir().unwrap();
        save_first(dir.path(), &key(7)).unwrap();
        let path = dir.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let ring = Keyring::load(dir.path());
        assert!(ring.newest(7).is_none() && ring.problem().unwrap().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "zkkey1-1\n").unwrap();
        let ring = Keyring::load(dir.path());
        let said = ring.problem().unwrap();
        assert!(said.contains("cluster.key line 1"), "{said}");
        ring.add(key(7), &[]).unwrap();
        assert!(ring.problem().is_none() && Keyring::load(dir.path()).newest(7).is_some());
        assert_eq!(
            std::fs::read_to_string(dir.path().join(UNREAD)).unwrap(),
            "zkkey1-1\n",
            "nothing is lost"
        );
    }
}
