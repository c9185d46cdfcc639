//! `zonekeeper restore` and `zonekeeper recover`: a new incarnation, begun on a node that stands still.

use crate::{clock, node};
use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};
use zonekeeper_api::Secret;
use zonekeeper_config::NodeConfig;
use zonekeeper_consensus::{Anew, Begun, Consensus, recover as recover_log, restore as restore_log};
use zonekeeper_core::{
    Command, State,
    entry::{Role, Token},
    id::NodeId,
};
use zonekeeper_peer::keys::{Credentials, Keyring};

/// How long another voter is waited for.
const KNOCK: Duration = Duration::from_secs(3);

/// `restore`: a new cluster of this node alone, with what a backup holds.
pub(crate) fn restore(config: &NodeConfig, backup: &Path, incarnation: Option<u32>) -> Result<(), String> {
    let reason = format!("from {}", backup.display());
    let (anew, secret) = anew(config, "restore", &reason, incarnation)?;
    let begun = restore_log(&config.data_dir, backup, &anew).map_err(|e| e.to_string())?;
    node::write_token(&config.data_dir, secret.text()).map_err(|e| e.to_string())?;
    say(config, &begun)
}

/// `recover`: what this node has becomes a cluster of this node alone.
pub(crate) fn recover(config: &NodeConfig, reason: &str) -> Result<(), String> {
    let (anew, secret) = anew(config, "recover", reason, None)?;
    refuse_a_quorum(config, &anew)?;
    let begun = recover_log(&config.data_dir, &anew).map_err(|e| e.to_string())?;
    node::write_token(&config.data_dir, secret.text()).map_err(|e| e.to_string())?;
    say(config, &begun)
}

fn anew(
    config: &NodeConfig,
    verb: &str,
    reason: &str,
    incarnation: Option<u32>,
) -> Result<(Anew, Secret), String> {
    let keys = Credentials::load(&config.keys_dir).map_err(|e| e.to_string())?;
    if keys.node() != config.id {
        let (dir, found, id) = (config.keys_dir.clone(), keys.node(), config.id);
        return Err(node::NodeError::Foreign { dir, found, id }.to_string());
    }
    let who = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_default();
    let author = if who.is_empty() { verb.to_owned() } else { format!("{verb} by {who}") };
    let secret = Secret::generate().map_err(|e| format!("no random numbers: {e}"))?;
    let wall_ms = clock::wall_ms();
    let token =
        Token { name: format!("{verb}-{wall_ms}"), hash: secret.hash(), role: Role::Admin, expires: None };
    let anew = Anew {
        node: config.id,
        cluster: keys.cluster(),
        member: node::member(config),
        author,
        reason: reason.to_owned(),
        incarnation,
        then: vec![Command::PutToken(token)],
        wall_ms,
    };
    Ok((anew, secret))
}

/// A recovery beside a quorum would be a second cluster with the same names. What listens at a voter's address counts
/// as alive: better refused once too often.
fn refuse_a_quorum(config: &NodeConfig, anew: &Anew) -> Result<(), String> {
    let opened =
        Consensus::open(&config.data_dir, config.id, Some(anew.cluster)).map_err(|e| e.to_string())?;
    let state = opened.state();
    drop(opened);
    let alive = knock(&state, config.id);
    let own = usize::from(state.voters.contains(&config.id));
    if alive.len() + own <= state.voters.len() / 2 {
        return Ok(());
    }
    let list: Vec<String> = alive.iter().map(|(id, addr)| format!("node {id} at {addr}")).collect();
    Err(format!(
        "{} of {} voters may be alive ({}), which is a majority: start this node as ever and let it follow them. If they \
         are lost all the same, stop what listens there",
        alive.len() + own,
        state.voters.len(),
        list.join(", ")
    ))
}

/// The other voters that take a connection.
fn knock(state: &State, own: NodeId) -> Vec<(NodeId, SocketAddr)> {
    let others = state.voters.iter().filter(|id| **id != own);
    let others = others.filter_map(|id| Some((*id, state.members.get(id)?.peer)));
    let knocking: Vec<_> = others
        .map(|(id, addr)| {
            std::thread::spawn(move || TcpStream::connect_timeout(&addr, KNOCK).is_ok().then_some((id, addr)))
        })
        .collect();
    knocking.into_iter().filter_map(|k| k.join().ok().flatten()).collect()
}

fn say(config: &NodeConfig, begun: &Begun) -> Result<(), String> {
    let (state, id) = (&begun.state, config.id);
    let (incarnation, upto) = (state.generation.incarnation, begun.upto);
    let mut text = format!(
        "node {id} is the only voter of cluster {:032x} now: incarnation {incarnation}, with everything up to index {upto}\n\
         admin token: {}\n",
        state.cluster,
        config.data_dir.join(node::TOKEN_FILE).display(),
    );
    if !state.retired.is_empty() {
        let list: Vec<String> = state.retired.iter().map(|n| n.to_string()).collect();
        text += &format!(
            "never start again, and wipe: the old disks of node {}; grow with new node ids\n",
            list.join(", ")
        );
    }
    text += &secrets(config, state);
    text += "start it: zonekeeper run --config FILE\n";
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| format!("cannot write to the terminal: {e}"))
}

/// What becomes of the common secrets.
fn secrets(config: &NodeConfig, state: &State) -> String {
    let (vault, keyring) = (&state.secrets.vault, Keyring::load(&config.keys_dir));
    if vault.keys().iter().all(|key| keyring.has(*key)) {
        return String::new();
    }
    let mut text = format!(
        "its common secrets are sealed under a cluster key that {} does not hold: fresh ones are made at the start. To keep \
         them, append the lines of cluster.key of a node of the old cluster to the one there first\n",
        config.keys_dir.display()
    );
    if !state.webhooks.is_empty() {
        text +=
            &format!("without it the keys of {} webhooks are lost; put these again\n", state.webhooks.len());
    }
    match state.certificates().count() {
        0 => {}
        n => text += &format!("without it {n} certificates are lost; put these again\n"),
    }
    text
}
