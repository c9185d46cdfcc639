//! ALIAS: the addresses of another name of ours, answered as those of the name that was asked for.

use super::{Next, Resolver};
use crate::{
    message::Section,
    responder::{lower, proof::Claim},
    wire::rcode,
};
use zonekeeper_core::{
    answer::{Found, Prepared, ZoneTable},
    zone::{Key, RrView, rdata_target, rtype},
};

/// Most names that lead to the addresses: what an operator wrote, so more is a loop.
const MAX_STEPS: usize = 8;

/// What the last name of an ALIAS says.
enum End<'a> {
    /// Addresses, and the smallest TTL on the way.
    Set(RrView<'a>, u32),
    /// The name has none of this type.
    Nothing,
    /// The name is not ours, or leads in a circle: we cannot know.
    Unknown,
    /// A service that fails closed.
    Denied(bool),
}

impl Resolver<'_, '_> {
    /// Answers with the addresses of an alias's target. Where that is not ours the answer is SERVFAIL, so that resolvers
    /// ask others and nobody keeps an absence.
    pub(super) fn alias(&mut self, zone: &ZoneTable, step: usize, apex: usize, alias: RrView<'_>) -> Next {
        match self.flatten(alias) {
            End::Set(set, ttl) => {
                let fits = self.message.put_with_ttl(Section::Answer, self.seen[step].owner, set, ttl);
                self.verdict.truncated |= !fits;
                None
            }
            End::Nothing => self.negative(zone, step, apex, Claim::NoData),
            End::Denied(true) => self.denied(zone, apex),
            End::Unknown | End::Denied(false) => {
                (self.verdict.rcode, self.verdict.error) = (rcode::SERVFAIL, Some(14)); // not ready
                None
            }
        }
    }

    fn flatten<'t>(&mut self, alias: RrView<'t>) -> End<'t>
    where
        Self: 't,
    {
        let (mut name, mut len, mut at, mut ttl) = ([0u8; 255], 0, alias, u32::MAX);
        for _ in 0..MAX_STEPS {
            ttl = ttl.min(at.ttl());
            let rdata = at.records().next().map(|r| r.rdata()).unwrap_or_default();
            let Some((start, n)) = rdata_target(at.rtype(), rdata) else { return End::Unknown };
            // below a DNAME what stands before it stays (RFC 6672 §2.2); all others lead to the name they have
            let before = if at.rtype() == rtype::DNAME { len } else { 0 };
            let Some(to) = name.get_mut(before..before + n) else { return End::Unknown };
            lower(to, &rdata[start..start + n]);
            len = before + n;
            let (Some((zone, origin)), mut key) = (self.table.zone_of(&name[..len], false), Key::default())
            else {
                return End::Unknown;
            };
            if !zone.is_ready() || !key.set(&name[..len], origin) {
                return End::Unknown;
            }
            at = match zone.find(&mut key, self.qtype) {
                Found::Set(set) => return End::Set(set, ttl.min(set.ttl())),
                Found::Service(answer) => {
                    return match self.steer(answer) {
                        Some(set) => End::Set(set, ttl.min(set.ttl())),
                        None => End::Denied(matches!(answer.prepared(), Prepared::NoData)),
                    };
                }
                Found::Cname(next) | Found::Alias(next) => next,
                Found::Dname(labels, next) => {
                    len = key.wire_start(labels);
                    next
                }
                Found::NoData | Found::NxDomain | Found::Any(_) => return End::Nothing,
                Found::Referral(..) => return End::Unknown,
            };
        }
        End::Unknown
    }
}
