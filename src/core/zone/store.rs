//! Zones in snapshots: the chunks' bytes as they are; counts and hash are made anew.

use super::{Zone, chunk::Chunk, rrset_hash};
use crate::{model::ZoneOwner, name::Name};
use alloc::{sync::Arc, vec::Vec};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

#[derive(Serialize)]
struct Out<'a> {
    head: (&'a Name, ZoneOwner, u32, u32, bool),
    chunks: &'a [Arc<Chunk>],
}

#[derive(Deserialize)]
struct In {
    head: (Name, ZoneOwner, u32, u32, bool),
    chunks: Vec<Chunk>,
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let head = (&self.origin, self.owner, self.serial, self.declared, self.started);
        Out { head, chunks: &self.chunks }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Zone, D::Error> {
        let In { head: (origin, owner, serial, declared, started), chunks } = In::deserialize(d)?;
        if chunks.windows(2).any(|w| w[0].node(w[0].len() - 1).key() >= w[1].first()) {
            return Err(D::Error::custom("chunks of a zone are not in order"));
        }
        let mut zone = Zone { serial, declared, started, ..Zone::new(origin, owner) };
        zone.chunks = chunks.into_iter().map(Arc::new).collect();
        let (mut names, mut rrsets, mut cuts, mut sum) = (0, 0, 0, 0u128);
        for node in zone.nodes() {
            names += 1;
            cuts += usize::from(node.is_cut());
            for set in node.sets() {
                rrsets += 1;
                sum = sum.wrapping_add(rrset_hash(node.key(), set.wire()));
            }
        }
        (zone.names, zone.rrsets, zone.cuts, zone.sum) = (names, rrsets, cuts, sum);
        Ok(zone)
    }
}

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self.data())
    }
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the bytes of a chunk")
    }
    fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Vec<u8>, E> {
        Ok(v.to_vec())
    }
    fn visit_byte_buf<E: Error>(self, v: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(v)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut out = Vec::new(); // text formats have no byte strings
        while let Some(b) = seq.next_element()? {
            out.push(b);
        }
        Ok(out)
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Chunk, D::Error> {
        Chunk::parse(d.deserialize_byte_buf(Bytes)?)
            .ok_or_else(|| D::Error::custom("a chunk of a zone is damaged"))
    }
}
