//! Certificates that the cluster holds: put once, sealed, in use on every node, for its listeners and for encrypted DNS.

use crate::{
    encrypted::restart_with,
    serve::certificate,
    support::{lab, options, output, share, tools, wait},
};
use serde_json::{Value, json};
use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};
use zonekeeper_chaos::lab::Lab;

/// Port of the listener with TLS, and of DNS over TLS.
const TLS: u16 = 8443;
const DOT: u16 = 8853;
const SOON: Duration = Duration::from_secs(20);

fn listener(lab: &Lab) -> String {
    let binds = lab.nodes.iter().map(|n| format!("{{ site = {:?}, addr = \"{}\" }}", n.site, n.at(TLS)));
    format!(
        "[listener.secure]\nprotocol = \"http\"\npool = \"web\"\ntls = {{ certificate = \"www\" }}\nbind = [{}]\n",
        binds.collect::<Vec<_>>().join(", ")
    )
}

/// Whether a node's listener shows this certificate and answers.
fn shows(lab: &Lab, i: usize, cert: &str) -> bool {
    let resolve = format!("example.com:{TLS}:{}", lab.nodes[i].ip);
    let url = format!("https://example.com:{TLS}/");
    let args = ["-sf", "--max-time", "5", "--cacert", cert, "--resolve", &resolve, "-o", "/dev/null", &url];
    output("curl", &args).status.success()
}

/// A connection to a node's listener that stands.
struct Kept(Child, Receiver<String>);

impl Kept {
    fn open(lab: &Lab, i: usize) -> Kept {
        let addr = format!("{}:{TLS}", lab.nodes[i].ip);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &addr]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn().unwrap();
        let (mut stdout, (said, answers)) = (child.stdout.take().unwrap(), channel());
        std::thread::spawn(move || {
            let mut got = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut got) {
                let _ = said.send(String::from_utf8_lossy(&got[..n]).into_owned());
            }
        });
        Kept(child, answers)
    }

    /// Asks over it.
    fn get(&mut self) -> String {
        let request = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin.write_all(request).and_then(|()| stdin.flush()).unwrap();
        self.1.recv_timeout(SOON).expect("an answer in time")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn put(lab: &Lab, i: usize, (cert, key): &(String, String)) {
    let read = |path: &String| std::fs::read_to_string(path).unwrap();
    lab.put(i, "/v1/certificates/www", &json!({"cert": read(cert), "key": read(key)})).unwrap();
}

fn held(lab: &Lab, i: usize) -> Value {
    lab.get(i, "/v1/certificates").unwrap_or_default()["data"][0].clone()
}

fn answers_over_tls(lab: &Lab, i: usize, cert: &str) -> bool {
    let (at, port, ca) = (format!("@{}", lab.nodes[i].ip), DOT.to_string(), format!("+tls-ca={cert}"));
    let args = [
        &at,
        "-p",
        &port,
        "+tls",
        &ca,
        "+tls-hostname=example.com",
        "mail.example.com",
        "A",
        "+short",
        "+retry=0",
    ];
    let said = output("kdig", &args);
    said.status.success() && !said.stdout.is_empty() && !String::from_utf8_lossy(&said.stdout).contains(';')
}

#[test]
fn a_certificate_that_is_put_once_is_shown_by_every_node() {
    if !tools(&["curl", "openssl", "kdig"]) {
        return;
    }
    let _turn = share();
    let mut lab = lab(options());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = [0, 1].map(|n: usize| certificate(folders[n].path()));

    let config = lab.folder().join("cluster-config");
    std::fs::write(config.join("secure.toml"), listener(&lab)).unwrap();
    let apply = |lab: &Lab| lab.cli(&["apply", config.to_str().unwrap(), "--yes"]);
    let why = apply(&lab).unwrap_err().to_string();
    assert!(why.contains("certificate put www"), "no listener without its certificate: {why}");
    put(&lab, 0, &first);
    apply(&lab).unwrap();
    for i in 0..3 {
        wait(&lab, "each node shows it", SOON, |lab| shows(lab, i, &first.0));
        assert!(!shows(&lab, i, &second.0), "and curl looks");
    }
    let dot = format!("\n[dns.encrypted]\ntls = [\"{}:{DOT}\"]\ncertificate = \"www\"\n", lab.nodes[2].ip);
    restart_with(&mut lab, 2, &dot);
    wait(&lab, "encrypted DNS has it too", SOON, |lab| answers_over_tls(lab, 2, &first.0));

    // another one under the same name: new handshakes get it, what stands goes on
    let mut kept = Kept::open(&lab, 1);
    assert!(kept.get().starts_with("HTTP/1.1 200"));
    put(&lab, 1, &second);
    for i in 0..3 {
        wait(&lab, "each node shows the other one", SOON, |lab| shows(lab, i, &second.0));
    }
    wait(&lab, "encrypted DNS too", SOON, |lab| answers_over_tls(lab, 2, &second.0));
    assert!(kept.get().starts_with("HTTP/1.1 200"), "an open connection");

    // sealed anew under another cluster key
    let before = held(&lab, 0);
    lab.cli(&["cluster", "rekey", "--yes"]).unwrap();
    wait(&lab, "all open it, and know who may have seen it", SOON, |lab| {
        (0..3).all(|i| held(lab, i)["opens"] == true && held(lab, i)["known"] == true)
    });
    assert_eq!((&held(&lab, 2)["sha256"], &before["listeners"]), (&before["sha256"], &json!(["secure"])));
    assert!((0..3).all(|i| shows(&lab, i, &second.0)));
    nowhere_in_clear(&lab, &first.1);
    nowhere_in_clear(&lab, &second.1);

    // alone on its disk: a node that restarts without the others has it
    (0..3).for_each(|i| _ = lab.kill(i).unwrap());
    lab.restart(2).unwrap();
    wait(&lab, "it shows it alone", SOON, |lab| {
        shows(lab, 2, &second.0) && answers_over_tls(lab, 2, &second.0)
    });
    (0..2).for_each(|i| _ = lab.restart(i).unwrap());
    wait(&lab, "the cluster is back", Duration::from_secs(60), |lab| {
        lab.cli(&["certificate", "remove", "www"])
            .is_err_and(|why| why.to_string().contains("the listener secure uses"))
    });
}

/// No file of the nodes holds the key as it was put; the certificate's name in the cluster is found.
fn nowhere_in_clear(lab: &Lab, key: &str) {
    let text = std::fs::read_to_string(key).unwrap();
    let grep = |what: &str| output("grep", &["-rlF", "--", what, &lab.folder().to_string_lossy()]);
    assert_eq!(grep("secure").status.code(), Some(0), "what is not secret is found");
    assert_eq!(grep(text.lines().nth(1).unwrap()).status.code(), Some(1), "the key lies there as it is");
}
