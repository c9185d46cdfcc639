//! The common secrets: shared by all nodes, sealed wherever they lie, under a key that a removed node does not get.

use crate::support::{lab, options, output, share, tools, wait};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};
use zonekeeper_chaos::{
    asker::{self, A},
    http,
    lab::{ADMIN, DNS, Lab, NAME},
};
use zonekeeper_core::{
    State,
    codec::{self, HEADER, Kind, OVERHEAD},
    secrets::SecretId,
};
use zonekeeper_peer::keys::{CLUSTER_KEY_FILE, ClusterKey, Keyring};

/// Port of the listener whose pool has a sticky cookie.
const STICKY: u16 = 8082;
const HOOK: &str = "http://127.0.0.1:9/hook";
const SIGNING: &str = "the signing key of a webhook";
const SOON: Duration = Duration::from_secs(20);

fn secrets(lab: &Lab, i: usize) -> Value {
    lab.get(i, "/v1/secrets").unwrap_or_default()["data"].clone()
}

fn keys_dir(lab: &Lab, i: usize) -> PathBuf {
    lab.folder().join(format!("keys/node-{}", lab.nodes[i].id))
}

fn key_file(lab: &Lab, i: usize) -> String {
    fs::read_to_string(keys_dir(lab, i).join(CLUSTER_KEY_FILE)).unwrap_or_default()
}

/// The ids of the keys in a node's folder.
fn ring(lab: &Lab, i: usize) -> Vec<String> {
    key_file(lab, i).lines().map(|line| line.parse::<ClusterKey>().unwrap().id().to_string()).collect()
}

/// Whether every node sees the same key in use, holds it, and opens everything.
fn settled(lab: &Lab, nodes: &[usize]) -> bool {
    let seen: Vec<Value> = nodes.iter().map(|i| secrets(lab, *i)).collect();
    seen.iter().all(|s| {
        let list = s["secrets"].as_array().cloned().unwrap_or_default();
        let fine = |secret: &Value| secret["opens"] == true && secret["key"] == s["key"];
        s["held"] == true
            && s["replacing"] == false
            && s["key"] == seen[0]["key"]
            && list.iter().all(fine)
            && list.len() > 1
    })
}

/// The state that a backup holds.
fn state_of(backup: &Path) -> State {
    let bytes = fs::read(backup).unwrap();
    let mut rest = bytes.as_slice();
    let mut next = |kind| {
        let len = codec::payload_len(kind, &rest[..HEADER], 1 << 30).unwrap() + OVERHEAD;
        let (record, after) = rest.split_at(len);
        rest = after;
        (codec::open(kind, record, 1 << 30).unwrap(), after.is_empty())
    };
    next(Kind::SnapshotHeader);
    let mut payload = Vec::new();
    loop {
        let (chunk, last) = next(Kind::SnapshotChunk);
        payload.extend_from_slice(&chunk[4..]);
        if last {
            return codec::from_trusted(&payload).unwrap();
        }
    }
}

/// What a key folder opens of a state, by purpose.
fn opened(state: &State, keys: &Path) -> Vec<(SecretId, Vec<u8>)> {
    let (ring, vault) = (Keyring::load(keys), &state.secrets.vault);
    let open = |key, context: &[u8], sealed: &[u8]| ring.open(key, context, sealed);
    let of = |id: &SecretId| {
        vault.opened(id, open).into_iter().map(|plain| (id.clone(), plain)).collect::<Vec<_>>()
    };
    vault.rings.keys().flat_map(of).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files that hold some bytes as they are.
fn holding(paths: &[PathBuf], bytes: &[u8]) -> Vec<PathBuf> {
    let holds = |path: &&PathBuf| {
        fs::read(path).unwrap_or_default().windows(bytes.len()).any(|window| window == bytes)
    };
    paths.iter().filter(holds).cloned().collect()
}

fn backup(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.folder().join(name);
    lab.cli(&["backup", path.to_str().unwrap(), "--linearizable"]).unwrap();
    path
}

/// The sticky cookie that a node gives a new client: the same for the same backend, if the secret is the same.
fn sticky(lab: &Lab, i: usize) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&lab.nodes[i].at(STICKY), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let cookie =
        text.lines().find_map(|l| l.strip_prefix("set-cookie: zk=").or(l.strip_prefix("Set-Cookie: zk=")))?;
    Some(cookie.split(';').next()?.to_owned())
}

/// The DNS cookie that a server answers to one: the same, if it takes it.
fn dns_cookie(server: SocketAddr, sent: &str) -> Option<String> {
    let (at, port, cookie) =
        (format!("@{}", server.ip()), server.port().to_string(), format!("+cookie={sent}"));
    // from one address: it is part of the cookie
    let args = ["-b", "127.0.0.1", "-p", &port, &at, NAME, "A", "+norecurse", "+tries=1", "+time=2", &cookie];
    let text = String::from_utf8_lossy(&output("dig", &args).stdout).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix("; COOKIE: "))?;
    Some(line.split(' ').next()?.to_owned())
}

fn sticky_pool() -> String {
    let bind = |site: &str| format!("{{ site = {site:?}, addr = \"{{{site}}}:{STICKY}\" }}");
    let binds = ["fra", "ams", "iad", "gru"].map(bind).join(", ");
    format!(
        "\n[pool.stuck]\nsticky = \"zk\"\nbackends = [{{ addr = \"{{fra}}:9001\" }}]\n\
         [listener.stuck]\nprotocol = \"http\"\npool = \"stuck\"\nbind = [{binds}]\n"
    )
}

#[track_caller]
fn all_share(lab: &Lab, nodes: &[usize]) {
    wait(lab, "all nodes give the same sticky cookie", SOON, |lab| {
        let first = sticky(lab, nodes[0]);
        first.is_some() && nodes.iter().all(|i| sticky(lab, *i) == first)
    });
    if !tools(&["dig"]) {
        return;
    }
    wait(lab, "a DNS cookie of one node is good at all", SOON, |lab| {
        let made = dns_cookie(lab.nodes[nodes[0]].at(DNS), "0102030405060708");
        let good =
            |i: &usize| made.is_some() && dns_cookie(lab.nodes[*i].at(DNS), made.as_ref().unwrap()) == made;
        nodes.iter().all(good)
    });
}

#[test]
fn secrets_are_common_and_sealed_and_a_removed_node_gets_no_new_key() {
    let _turn = share();
    let mut options = options();
    options.sites = ["fra", "ams", "iad", "gru"].map(String::from).to_vec();
    options.more = sticky_pool();
    let mut lab = lab(options);
    lab.put(0, "/v1/webhooks", &json!({"url": HOOK, "secret": SIGNING})).unwrap();
    wait(&lab, "all hold the key", SOON, |lab| settled(lab, &[0, 1, 2]));
    all_share(&lab, &[0, 1, 2]);
    let first = ring(&lab, 0);
    assert_eq!((first.len(), ring(&lab, 1)), (1, first.clone()), "the key of `keys new`");

    // a node that joins with a token has no key in its folder, and gets it
    fs::remove_dir_all(keys_dir(&lab, 3)).unwrap();
    let made: Value =
        serde_json::from_str(&lab.cli(&["member", "token", "--for", "5m", "--json"]).unwrap()).unwrap();
    lab.join(3, 0, made["token"].as_str().unwrap()).unwrap();
    wait(&lab, "the fourth node has the key", SOON, |lab| settled(lab, &[0, 1, 2, 3]));
    assert_eq!(ring(&lab, 3), first);
    all_share(&lab, &[0, 3]);

    // whatever lies on the disks, log and backup: sealed
    let old = backup(&lab, "old.zkb");
    nothing_in_clear(&lab, &old);

    // the fourth node leaves: another key, which it does not get, and everything new is sealed under it
    lab.cli(&["member", "remove", "4", "--yes"]).unwrap();
    wait(&lab, "the members have another key", SOON, |lab| {
        settled(lab, &[0, 1, 2]) && secrets(lab, 0)["key"] != json!(first[0])
    });
    let key = secrets(&lab, 0)["key"].as_str().unwrap().to_owned();
    for i in [0, 1, 2] {
        assert_eq!(ring(&lab, i), [key.clone(), first[0].clone()], "node {i}");
    }
    let list = secrets(&lab, 0)["secrets"].as_array().unwrap().clone();
    for secret in &list {
        assert_eq!(secret["known"], secret["name"] == "webhook", "rolled, but for the webhook: {secret}");
    }
    let new = backup(&lab, "new.zkb");
    std::thread::sleep(Duration::from_secs(2)); // time to ask for it, and to be refused
    assert_eq!(ring(&lab, 3), first, "the removed node");
    let state = state_of(&new);
    assert_eq!(opened(&state, &keys_dir(&lab, 3)), [], "the old key opens nothing");
    let known: Vec<_> =
        opened(&state_of(&old), &keys_dir(&lab, 3)).into_iter().map(|(_, plain)| plain).collect();
    let fresh = opened(&state, &keys_dir(&lab, 0))
        .into_iter()
        .filter(|(id, plain)| !matches!(id, SecretId::Webhook(_)) && !known.contains(plain));
    assert_eq!(fresh.count(), 2, "both have a successor that the removed node never knew");
    all_share(&lab, &[0, 1, 2]);
    nothing_in_clear(&lab, &new);
    (0..4).for_each(|i| _ = lab.kill(i).unwrap()); // the next ones stand at the same addresses
    restored_with_and_without_the_key(&lab, &new, &key);
}

fn nothing_in_clear(lab: &Lab, backup: &Path) {
    let state = state_of(backup);
    assert!(state.secrets.session.is_empty() && state.secrets.cookies.active.is_none());
    let plain = opened(&state, &keys_dir(lab, 0));
    assert!(
        plain.len() >= 3 && plain.iter().any(|(_, plain)| plain == SIGNING.as_bytes()),
        "{}",
        plain.len()
    );
    let mut paths = vec![backup.to_owned()];
    paths.extend((0..3).flat_map(|i| files(&lab.data(i))));
    assert!(!holding(&paths, HOOK.as_bytes()).is_empty(), "what is not secret is found");
    for (id, plain) in &plain {
        assert_eq!(holding(&paths, plain), Vec::<PathBuf>::new(), "{id} stands there as it is");
    }
    for line in key_file(lab, 0).lines() {
        let digits = line.rsplit('-').next().unwrap();
        let key: Vec<u8> =
            (0..32).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap()).collect();
        for key in [key.as_slice(), digits.as_bytes()] {
            assert_eq!(holding(&paths, key), Vec::<PathBuf>::new(), "the cluster key");
        }
    }
}

fn restored_with_and_without_the_key(old: &Lab, backup: &Path, before: &str) {
    let path = backup.to_str().unwrap();
    for with in [false, true] {
        let mut new = Lab::empty(options()).unwrap();
        new.prepare().unwrap();
        if with {
            let both = key_file(&new, 0) + &key_file(old, 0);
            fs::write(keys_dir(&new, 0).join(CLUSTER_KEY_FILE), both).unwrap();
        }
        let said = new.offline(0, "restore", &[path]).unwrap();
        assert_eq!(
            !with,
            said.contains("fresh ones are made") && said.contains("1 webhooks are lost"),
            "{said}"
        );
        new.spawn(0, &[]).unwrap();
        new.read_token().unwrap();
        wait(&new, "the cluster has a key of its own", SOON, |new| {
            let seen = secrets(new, 0);
            seen["held"] == true && seen["replacing"] == false && seen["key"] != json!(before)
        });
        wait(&new, "everything that can be opened is sealed anew", SOON, |new| {
            let list = secrets(new, 0)["secrets"].as_array().cloned().unwrap_or_default();
            let anew = |s: &Value| s["key"] == secrets(new, 0)["key"] && s["opens"] == true;
            let rolled = |s: &&Value| s["known"] == false;
            list.len() == 3 && (!with || list.iter().all(anew)) && list.iter().filter(rolled).count() == 2
        });
        let plain = opened(&state_of(&self::backup(&new, "again.zkb")), &keys_dir(&new, 0));
        assert_eq!(plain.iter().any(|(_, plain)| plain == SIGNING.as_bytes()), with, "the webhook's key");
        let own = |id: &SecretId| plain.iter().any(|(of, _)| of == id);
        assert!(SecretId::SHARED.iter().all(own), "both are there, fresh or not");
        let problems = new.get(0, "/v1/cluster").unwrap()["data"]["problems"].to_string();
        assert_eq!(!with, problems.contains("put the webhook again"), "{problems}");
    }
}

#[test]
fn a_node_without_the_key_serves_says_so_and_gets_it() {
    let _turn = share();
    let mut options = options();
    options.more = sticky_pool().replace(", { site = \"gru\", addr = \"{gru}:8082\" }", "");
    let mut lab = lab(options);
    wait(&lab, "all hold the key", SOON, |lab| settled(lab, &[0, 1, 2]));
    (0..3).for_each(|i| _ = lab.kill(i).unwrap());
    fs::write(keys_dir(&lab, 2).join(CLUSTER_KEY_FILE), "damaged\n").unwrap();
    lab.restart(2).unwrap();
    let metric = |lab: &Lab| {
        let answer = lab.request(2, "GET", "/metrics", None).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        text.lines().find_map(|l| l.strip_prefix("zonekeeper_cluster_key ")).map(str::to_owned)
    };
    wait(&lab, "it serves alone", SOON, |lab| lab.ready(2));
    assert!(asker::ask(lab.nodes[2].at(DNS), NAME, A, Duration::from_secs(1)).is_ok());
    wait(&lab, "it makes sticky cookies of its own", SOON, |lab| sticky(lab, 2).is_some());
    let problems = lab.get(2, "/v1/cluster").unwrap()["data"]["problems"].to_string();
    assert!(
        problems.contains("lacks the cluster key") && problems.contains("cluster.key line 1"),
        "{problems}"
    );
    assert_eq!((secrets(&lab, 2)["held"].clone(), metric(&lab).as_deref()), (json!(false), Some("0")));
    assert!(http::get(lab.nodes[2].at(ADMIN), "/readyz", SOON).is_ok_and(|a| a.status == 200));

    (0..2).for_each(|i| _ = lab.restart(i).unwrap());
    wait(&lab, "the others give it the key", Duration::from_secs(60), |lab| settled(lab, &[0, 1, 2]));
    assert_eq!(metric(&lab).as_deref(), Some("1"));
    all_share(&lab, &[0, 1, 2]);
    assert!(keys_dir(&lab, 2).join("cluster.key.unread").exists(), "nothing is thrown away");
}

/// `secrets-v1.zkb` is a backup that the program of cluster version 1 made.
#[test]
fn what_version_1_held_in_clear_is_sealed_after_the_upgrade() {
    let _turn = share();
    let old = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/secrets-v1.zkb");
    let before = state_of(&old);
    let session = before.secrets.session[0].0;
    let cookie = before.secrets.cookies.active.unwrap().0;
    assert_eq!((before.cluster_version, before.webhooks[HOOK].secret.as_str()), (1, SIGNING));
    let mut lab = Lab::empty(options()).unwrap();
    lab.prepare().unwrap();
    lab.offline(0, "restore", &[old.to_str().unwrap()]).unwrap();
    lab.spawn(0, &[]).unwrap();
    lab.read_token().unwrap();
    // version 1 goes on as it was
    assert_eq!(secrets(&lab, 0)["key"], Value::Null);
    lab.cli(&["secrets", "roll", "dns-cookie"]).unwrap();
    let early = backup(&lab, "early.zkb");
    assert_eq!(state_of(&early).secrets.session[0].0, session);
    lab.cli(&["cluster", "upgrade", "--yes"]).unwrap();
    wait(&lab, "the secrets are sealed and rolled", SOON, |lab| {
        let list = secrets(lab, 0)["secrets"].as_array().cloned().unwrap_or_default();
        let rolled = |s: &&Value| s["step"] == "staged" && s["known"] == false;
        settled(lab, &[0]) && list.iter().filter(rolled).count() == 2
    });
    let late = backup(&lab, "late.zkb");
    for secret in [session.as_slice(), &cookie, SIGNING.as_bytes()] {
        assert_eq!(holding(&[early.clone(), late.clone()], secret), std::slice::from_ref(&early));
    }
    let plain = opened(&state_of(&late), &keys_dir(&lab, 0));
    let used: Vec<&[u8]> = plain.iter().map(|(_, plain)| plain.as_slice()).collect();
    assert!(
        used.contains(&session.as_slice()) && used.contains(&cookie.as_slice()),
        "the old ones are good still"
    );
    assert!(used.contains(&SIGNING.as_bytes()) && used.len() == 5, "and each of the two has a successor");
}
