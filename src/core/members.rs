//! Members, timing, tokens and webhooks: commands that no answer depends on.

use crate::{
    apply::{Refusal, Step, VERSION},
    entry::{Command, Member, Timing, Token},
    id::NodeId,
    state::State,
};
use alloc::{format, string::String, sync::Arc, vec::Vec};

/// Members of one cluster, learners included.
pub(crate) const MAX_MEMBERS: usize = 512;
/// Authors that the program itself writes under; no token may look like them.
const OWN_NAMES: [&str; 4] = ["automation", "bootstrap", "join", "serve"];
/// Tokens, join tokens and webhooks of one cluster, each.
pub(crate) const MAX_TOKENS: usize = 1000;

/// Secrets that are valid at the same time.
const SECRETS: usize = 2;

impl State {
    pub(crate) fn membership_command(
        &mut self,
        step: &mut Step<'_>,
        command: &Command,
    ) -> Result<(), Refusal> {
        match command {
            Command::PutMember(id, member) => self.put_member(step, *id, member),
            Command::RemoveMember(id) => self.remove_member(step, *id),
            Command::SetTiming(timing) => {
                check_timing(*timing)?;
                self.timing = *timing;
                step.delta.members = true;
                Ok(())
            }
            Command::PutToken(token) => self.put_token(token),
            Command::RemoveToken(name) => {
                self.tokens.remove(name).map(drop).ok_or_else(|| format!("there is no token {name}"))
            }
            Command::PutJoin(join) => {
                bounded(self.joins.len(), MAX_TOKENS, "join tokens")?;
                self.joins.insert(join.hash, join.clone());
                Ok(())
            }
            Command::UseJoin { hash, node } => self.use_join(hash, *node),
            Command::Upgrade(to) => self.upgrade(*to),
            Command::PutWebhook(hook) => {
                if !self.webhooks.contains_key(&hook.url) {
                    bounded(self.webhooks.len(), MAX_TOKENS, "webhooks")?;
                }
                check_url(&hook.url)?;
                self.no_plain_secret()?;
                self.webhooks.insert(hook.url.clone(), hook.clone());
                Ok(())
            }
            Command::RemoveWebhook(url) => self.forget_webhook(url),
            Command::PutSecret(secret) => {
                self.no_plain_secret()?;
                self.secrets.session.insert(0, secret.clone());
                self.secrets.session.truncate(SECRETS);
                step.delta.proxy = true;
                Ok(())
            }
            Command::RollCookies(new) => self.roll_cookies(*new),
            Command::SealWith { from, to } => self.seal_with(*from, *to),
            Command::PutSealed { id, after, key, bytes } => self.put_sealed(step, id, *after, *key, bytes),
            Command::Reseal { id, generation, key, bytes } => self.reseal(step, id, *generation, *key, bytes),
            Command::Rekey => self.rekey(),
            Command::RemoveCertificate(id) => self.forget_certificate(id),
            _ => Err(String::from("this command is handled elsewhere")),
        }
    }

    fn put_member(&mut self, step: &mut Step<'_>, id: NodeId, member: &Member) -> Result<(), Refusal> {
        if self.retired.contains(&id) {
            return Err(format!(
                "node id {id} was used before; take a new one (a used id can break the quorum)"
            ));
        }
        if !self.members.contains_key(&id) {
            bounded(self.members.len(), MAX_MEMBERS, "members")?;
        }
        let same = self.members.iter().find(|(other, m)| **other != id && m.peer == member.peer);
        if let Some((other, _)) = same {
            return Err(format!("node {other} has the peer address {} already", member.peer));
        }
        self.members.insert(id, Arc::new(member.clone()));
        self.members_version = self.generation.index;
        step.delta.members = true;
        Ok(())
    }

    fn remove_member(&mut self, step: &mut Step<'_>, id: NodeId) -> Result<(), Refusal> {
        if self.voters.contains(&id) {
            return Err(format!("node {id} votes; demote it first"));
        }
        self.members.remove(&id).ok_or_else(|| format!("there is no member {id}"))?;
        self.retired.insert(id);
        self.expose_key();
        self.members_version = self.generation.index;
        step.delta.members = true;
        Ok(())
    }

    /// A secret that is in use never goes out of use without notice.
    fn put_token(&mut self, token: &Token) -> Result<(), Refusal> {
        let name = &token.name;
        if name.is_empty() || name.len() > 63 {
            return Err("a token's name has 1 to 63 bytes; choose another one".into());
        }
        if OWN_NAMES.contains(&name.as_str()) {
            return Err(format!(
                "what the program does by itself stands under the name {name}; choose another one"
            ));
        }
        match self.tokens.get(name) {
            Some(held) if held.expires.is_none_or(|e| e > self.time) => {
                return Err(format!(
                    "there is a token {name} already; remove it first, or choose another name"
                ));
            }
            Some(_) => {}
            None => bounded(self.tokens.len(), MAX_TOKENS, "tokens")?,
        }
        self.tokens.insert(name.clone(), Arc::new(token.clone()));
        Ok(())
    }

    fn use_join(&mut self, hash: &[u8; 32], node: NodeId) -> Result<(), Refusal> {
        if self.retired.contains(&node) || self.members.contains_key(&node) {
            return Err(format!("node id {node} is taken or was used before; take a new one"));
        }
        let join =
            self.joins.get(hash).ok_or("the join token is unknown or was used already; make a new one")?;
        if join.expires <= self.time {
            return Err("the join token has expired; make a new one".into());
        }
        self.joins.remove(hash);
        Ok(())
    }

    fn upgrade(&mut self, to: u32) -> Result<(), Refusal> {
        if to != self.cluster_version + 1 || to > VERSION {
            return Err(format!(
                "cluster version is {}, this program knows up to {VERSION}; upgrades go one step at a time",
                self.cluster_version
            ));
        }
        let old: Vec<_> = self.members.iter().filter(|(_, m)| m.version < to).map(|(id, _)| *id).collect();
        if !old.is_empty() {
            return Err(format!(
                "nodes {old:?} run a program that does not know cluster version {to} (or have not started yet); \
                 upgrade or remove them first"
            ));
        }
        self.cluster_version = to;
        Ok(())
    }
}

pub(crate) fn check_timing(timing: Timing) -> Result<(), Refusal> {
    match timing {
        Timing::Heartbeat { ms } if !(50..=5000).contains(&ms) => {
            Err(format!("a heartbeat of {ms} ms is out of range; use 50 to 5000"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_url(url: &str) -> Result<(), Refusal> {
    match url.starts_with("http://") || url.starts_with("https://") {
        true => Ok(()),
        false => Err(format!("webhook {url}: the URL must begin with http:// or https://")),
    }
}

pub(crate) fn bounded(have: usize, most: usize, what: &str) -> Result<(), Refusal> {
    if have < most { Ok(()) } else { Err(format!("there are too many {what}; remove one first")) }
}
