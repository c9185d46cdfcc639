//! Operators: record edits with values of their own, overrides, moves, automation, declarations.

use crate::{
    bug::Bug,
    cluster::{SERVICES, declare, name, record, service, site, zone},
    faults::FLOOD_WRITTEN,
    node::Node,
    world::World,
};
use openraft::{AsyncRuntime, ReadPolicy, async_runtime::WatchReceiver};
use openraft_rt_sim::SimRuntime;
use std::{sync::Arc, time::Duration};
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State,
    entry::{Force, Override, Scope},
    id::NodeId,
    invariant::Violation,
    model::Change,
    name::Name,
    zone::RrSet,
};

/// An operator waits so long for an answer; after it the command's fate is unknown.
const PATIENCE: Duration = Duration::from_secs(5);

impl World {
    /// One command through whoever leads; none when its fate is unknown. `author` makes it findable.
    pub async fn submit(self: &Arc<World>, author: &str, command: Command) -> Option<(u64, Outcome)> {
        self.sleep(self.draw(|r| r.range(1, 10))).await;
        let node = self.leader()?;
        self.submit_to(node, author, command).await
    }

    async fn submit_to(
        self: &Arc<World>,
        node: Arc<Node>,
        author: &str,
        command: Command,
    ) -> Option<(u64, Outcome)> {
        let proposal = Proposal::by(author, command);
        // The program goes on with what it was asked, whether or not the operator still listens.
        let (boot, world) = (node.boot, self.clone());
        let done = SimRuntime::spawn(async move {
            let done = node.propose(proposal).await;
            world.gate(node.id).await;
            done.filter(|_| world.boot(node.id) == boot)
        });
        SimRuntime::timeout(PATIENCE, done).await.ok()?.ok()?
    }

    /// Who leads, as a node that runs sees it.
    pub fn leader(&self) -> Option<Arc<Node>> {
        let running = self.all_running();
        let asked = running.get(self.draw(|r| r.below(running.len() as u64)) as usize)?;
        let leader = asked.raft.metrics().borrow_watched().current_leader?;
        self.running(leader)
    }

    /// Submits until it is applied, for a minute at most.
    pub async fn insist(self: &Arc<World>, author: &str, command: Command) -> Option<u64> {
        let until = self.now() + 60_000;
        while self.now() < until {
            match self.submit(author, command.clone()).await {
                Some((index, Outcome::Applied(_))) => return Some(index),
                // it was applied before, and the answer was lost
                Some((index, Outcome::Refused(why))) => {
                    self.note(|| format!("{author} refused: {why}"));
                    return Some(index);
                }
                _ => self.sleep(50).await,
            }
        }
        None
    }

    /// A record edit with a value that no other has; remembered when it is acknowledged.
    pub async fn edit(self: &Arc<World>, number: u64) -> bool {
        self.sleep(self.draw(|r| r.range(1, 10))).await;
        match self.leader() {
            Some(node) => self.edit_at(node, number).await,
            None => false,
        }
    }

    /// The same through this node.
    pub async fn edit_at(self: &Arc<World>, node: Arc<Node>, number: u64) -> bool {
        let text = format!("w{number}");
        let set = txt(name(&format!("{text}.example.com.")), &text);
        let change = Change::PutRecords(zone(), vec![set.clone()]);
        let done = self.submit_to(node, &text, Command::Configure(vec![change])).await;
        let Some((index, Outcome::Applied(_))) = done else { return false };
        self.note(|| format!("{text} acknowledged at {index}"));
        self.checks().acknowledged.acknowledge(index, zone(), set);
        true
    }
}

impl World {
    /// A node that believes that it leads, however old that belief may be.
    fn some_leader(&self) -> Option<Arc<Node>> {
        let leaders: Vec<_> = self.all_running().into_iter().filter(|n| n.raft.is_leader()).collect();
        leaders.get(self.draw(|r| r.below(leaders.len() as u64)) as usize).cloned()
    }

    /// Writes a value that no other write has to a register.
    async fn write(self: &Arc<World>, value: u64) {
        let Some(node) = self.some_leader() else { return };
        let register = self.draw(|r| r.below(REGISTERS));
        let newest = self.checks().registers.newest(register);
        let set = txt(register_name(register), &value.to_string());
        let change = Change::PutRecords(zone(), vec![set]);
        let done = self.submit_to(node, &format!("r{register}"), Command::Configure(vec![change])).await;
        let Some((index, Outcome::Applied(_))) = done else { return };
        self.note(|| format!("r{register} = {value} acknowledged at {index}"));
        let seen = self.checks().registers.written(register, newest, index);
        self.found(seen);
    }

    /// A linearizable read of this node: it sees whatever was complete before the read began, or says nothing.
    pub async fn read_at(self: &Arc<World>, node: NodeId) {
        let Some(node) = self.running(node) else { return };
        let register = self.draw(|r| r.below(REGISTERS));
        let (promised, newest) = {
            let checks = self.checks();
            (checks.acknowledged.newest(), checks.registers.newest(register))
        };
        self.gate(node.id).await;
        if self.setup.bug != Some(Bug::LocalRead) && !self.confirm(&node, promised).await {
            return;
        }
        let value = held(&node.machine.state(), register);
        self.note(|| format!("n{} reads r{register} = {value:?}", node.id));
        let seen = self.checks().registers.read(register, newest, value);
        self.found(seen);
    }

    /// Waits until this node has applied what a linearizable read must see, if it can tell.
    async fn confirm(&self, node: &Node, promised: u64) -> bool {
        let policy = match self.setup.bug {
            Some(Bug::LeaseRead) => ReadPolicy::LeaseRead,
            _ => ReadPolicy::ReadIndex,
        };
        let read = SimRuntime::timeout(PATIENCE, node.raft.get_read_log_id(policy)).await;
        let Ok(Ok((at, _))) = read else { return false };
        self.note(|| format!("n{} reads at {}", node.id, at.index()));
        if at.index() < promised {
            let text =
                format!("node {} reads at {}, {promised} was acknowledged before", node.id, at.index());
            self.found(Err(Violation::of(4, text)));
        }
        let until = self.now() + PATIENCE.as_millis() as u64;
        while node.machine.state().generation.index < at.index() {
            self.sleep(5).await;
            self.gate(node.id).await;
            if !node.alive() || self.now() > until {
                return false;
            }
        }
        true
    }
}

/// RFC 1035 §3.3.14.
const TXT: u16 = 16;

/// Registers that readers and writers share.
const REGISTERS: u64 = 2;

fn register_name(register: u64) -> Name {
    name(&format!("r{register}.example.com."))
}

fn txt(owner: Name, text: &str) -> RrSet {
    record(owner, TXT, &[&[text.len() as u8], text.as_bytes()].concat())
}

fn value(set: &RrSet) -> Option<u64> {
    str::from_utf8(set.rdata.first()?.get(1..)?).ok()?.parse().ok()
}

/// What a register holds.
fn held(state: &State, register: u64) -> Option<u64> {
    value(&state.zones.get(&zone())?.get(&register_name(register), TXT)?)
}

/// The value that an entry writes to a register.
pub fn written(entry: &Entry) -> Option<u64> {
    let Command::Configure(changes) = &entry.proposal.command else { return None };
    changes.iter().find_map(|change| match change {
        Change::PutRecords(_, sets) => sets.iter().find_map(value),
        _ => None,
    })
}

/// Readers and writers of registers at work until the time has come, none of which waits for another.
pub async fn look(world: Arc<World>, until: u64) {
    for number in 1.. {
        world.sleep(world.draw(|r| r.exponential(200))).await;
        if world.now() >= until {
            return;
        }
        let world = world.clone();
        drop(SimRuntime::spawn(async move {
            if world.draw(|r| r.chance(250)) {
                world.write(number).await;
            } else if let Some(node) = world.some_leader() {
                world.read_at(node.id).await;
            }
        }));
    }
}

/// So many record edits at once, more than the log keeps behind a snapshot.
pub fn flood(world: &Arc<World>) {
    let first = 1_000 * world.now();
    for number in first..first + 60 {
        let world = world.clone();
        drop(SimRuntime::spawn(async move {
            if world.edit(number).await {
                world.met(FLOOD_WRITTEN);
            }
        }));
    }
}

/// Operators at work until the time has come.
pub async fn operate(world: Arc<World>, until: u64) {
    let mut number = 0;
    while world.now() < until {
        number += 1;
        world.sleep(world.draw(|r| r.exponential(400))).await;
        if world.setup.quiet || world.draw(|r| r.chance(600)) {
            world.edit(number).await;
        } else {
            let command = command(&world, number);
            world.submit(&format!("op{number}"), command).await;
        }
    }
}

/// Any command of an operator.
fn command(world: &World, number: u64) -> Command {
    let now = world.all_running().first().map(|n| n.machine.log_time()).unwrap_or_default();
    let (of, at, which, expires) = world.draw(|r| {
        let nodes: Vec<u64> = world.nodes().collect();
        let expires = r.chance(700).then(|| now.plus(r.range(500, 8_000)));
        (service(r.pick::<&str>(&SERVICES)), site(*r.pick(&nodes)), r.below(100), expires)
    });
    let scope =
        if which % 2 == 0 { Scope::Site(at.clone()) } else { Scope::ServiceSite(of.clone(), at.clone()) };
    let force = |force| {
        let (author, reason) = (format!("op{number}"), "simulation".into());
        Command::Override(Override { scope: scope.clone(), force, author, reason, expires })
    };
    match which {
        0..25 => force(Force::Drain),
        25..35 => force(Force::Up),
        35..45 => force(Force::Down),
        45..65 => Command::Release(scope),
        65..75 => Command::Move { service: of, to: Some(at) },
        75..80 => Command::Move { service: of, to: None },
        80..84 => Command::Automation { service: None, on: false },
        84..88 => Command::Automation { service: None, on: true },
        88..94 => Command::Automation { service: Some(of), on: which % 2 == 0 },
        _ => {
            let spec = declare(world, of.as_str(), 30 + number as u32 % 30);
            Command::Configure(vec![Change::PutService(of, Box::new(spec))])
        }
    }
}

/// Everything that operators did is taken back; nothing is asked for when there is nothing.
pub async fn tidy(world: &Arc<World>) {
    let Some(node) = world.leader() else { return };
    let state = node.machine.state();
    if !state.automation {
        world.insist("tidy", Command::Automation { service: None, on: true }).await;
    }
    for which in SERVICES {
        let wanted = declare(world, which, 30);
        let Some(held) = state.services.get(&service(which)) else { continue };
        if held.spec != wanted {
            let again = Change::PutService(service(which), Box::new(wanted));
            world.insist("tidy", Command::Configure(vec![again])).await;
        }
        if held.automation == Some(false) {
            world.insist("tidy", Command::Automation { service: Some(service(which)), on: true }).await;
        }
        if held.pinned.is_some() {
            world.insist("tidy", Command::Move { service: service(which), to: None }).await;
        }
    }
    for scope in state.overrides.keys().cloned() {
        world.insist("tidy", Command::Release(scope)).await;
    }
}
