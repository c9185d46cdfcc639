//! Where a question leads in a zone (RFC 1034 §4.3.2, RFC 4592, RFC 6672), without allocation.

use super::{Key, Node, Zone, rtype};

/// What ends the zone's authority above or at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// A delegation: NS below the apex.
    Delegation,
    /// A DNAME above the name (RFC 6672).
    Dname,
}

/// Where a name stands in a zone.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The name's own records; none also for an empty non-terminal.
    pub node: Option<Node<'a>>,
    /// Labels below the origin of the closest encloser; all of the name's labels when the name exists.
    pub encloser: usize,
    /// The topmost cut on the way: its labels below the origin, its records. Everything below it is occluded.
    pub cut: Option<(usize, CutKind, Node<'a>)>,
}

impl Zone {
    /// Finds the place of a name.
    pub fn place_of(&self, key: &Key) -> Place<'_> {
        let (at, found) = self.position(key.bytes());
        let (node, encloser) = match found {
            Ok(i) => (Some(self.chunks[at].node(i)), key.labels()),
            Err(i) => (None, self.encloser(key, at, i)),
        };
        let cut = if self.cuts == 0 { None } else { cut(key, encloser, node, |prefix| self.find(prefix)) };
        Place { node, encloser, cut }
    }

    /// The records of a key.
    pub fn find(&self, key: &[u8]) -> Option<Node<'_>> {
        let (at, found) = self.position(key);
        found.ok().map(|i| self.chunks[at].node(i))
    }

    /// Labels that the neighbours of a missing key share with it: one of them lies below the closest encloser.
    fn encloser(&self, key: &Key, at: usize, i: usize) -> usize {
        let Some(chunk) = self.chunks.get(at) else { return 0 };
        let before = i.checked_sub(1).map(|b| chunk.node(b));
        let after =
            if i < chunk.len() { Some(chunk.node(i)) } else { self.chunks.get(at + 1).map(|c| c.node(0)) };
        [before, after].into_iter().flatten().map(|n| key.common_labels(n.key())).max().unwrap_or(0)
    }
}

/// The topmost cut among a name's ancestors and, for a delegation, the name itself.
pub(super) fn cut<'a>(
    key: &Key,
    encloser: usize,
    node: Option<Node<'a>>,
    find: impl Fn(&[u8]) -> Option<Node<'a>>,
) -> Option<(usize, CutKind, Node<'a>)> {
    for labels in 0..=encloser {
        let own = labels == key.labels();
        let here = if own { node } else { find(key.prefix(labels)) };
        let Some(here) = here else { continue };
        if labels > 0 && here.set(rtype::NS).is_some() {
            return Some((labels, CutKind::Delegation, here));
        }
        if !own && here.set(rtype::DNAME).is_some() {
            return Some((labels, CutKind::Dname, here));
        }
    }
    None
}
