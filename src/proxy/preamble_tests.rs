use super::*;

fn ends(source: &str, destination: &str) -> Ends {
    Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// Every prefix asks for more, what follows is not looked at, and the whole is this.
fn reads(bytes: &[u8], want: Option<Ends>) {
    for cut in 0..bytes.len() {
        assert_eq!(parse(&bytes[..cut]), Preamble::More, "{cut} of {}", bytes.escape_ascii());
    }
    assert_eq!(parse(bytes), Preamble::Header(bytes.len(), want), "{}", bytes.escape_ascii());
    let more = [bytes, b"\r\n\r\n\0"].concat();
    assert_eq!(parse(&more), Preamble::Header(bytes.len(), want));
}

fn bad(bytes: &[u8]) {
    assert!(matches!(parse(bytes), Preamble::Bad(_)), "{}: {:?}", bytes.escape_ascii(), parse(bytes));
}

#[test]
fn what_is_written_reads_back() {
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        for (source, destination) in [
            ("192.0.2.1:1", "198.51.100.255:65535"),
            ("[2001:db8::1]:0", "[ff00::]:443"),
            ("255.255.255.255:65535", "255.255.255.255:65535"),
        ] {
            let mut out = Vec::new();
            let ends = ends(source, destination);
            write(version, ends, &mut out);
            reads(&out, Some(ends));
        }
    }
    let mut out = Vec::new();
    write(ProxyHeader::V1, ends("192.0.2.1:1", "[::1]:2"), &mut out);
    assert_eq!(out, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "one family for both");
    out.clear();
    write(ProxyHeader::V2, ends("[::ffff:192.0.2.1]:1", "192.0.2.2:2"), &mut out);
    assert_eq!(out[12..16], [0x21, 0x11, 0, 12], "a mapped address is the IPv4 address");
}

#[test]
fn lines_have_one_spelling() {
    reads(b"PROXY UNKNOWN\r\n", None);
    reads(b"PROXY UNKNOWN ff:ff ::1 65535 x\r\n", None);
    for line in [
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    ] {
        bad(line.as_bytes());
    }
    bad(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat());
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE.as_slice(), &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

#[test]
fn binary_headers_fit_their_length() {
    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187];
    let want = Some(ends("192.0.2.1:80", "192.0.2.2:443"));
    reads(&binary(PROXY, 0x11, &v4), want);
    reads(&binary(PROXY, 0x11, &[v4.as_slice(), &[1, 0, 2, b'h', b'2', 4, 0, 0]].concat()), want);
    reads(&binary(LOCAL, 0x00, &[]), None);
    reads(&binary(LOCAL, 0x11, &v4), None);
    reads(&binary(PROXY, 0x00, &[]), None);
    reads(&binary(PROXY, 0x31, &[0; 216]), None);
    bad(&binary(0x11, 0x11, &v4));
    bad(&binary(0x22, 0x11, &v4));
    bad(&binary(PROXY, 0x13, &v4));
    bad(&binary(PROXY, 0x41, &v4));
    bad(&binary(PROXY, 0x11, &v4[..11]));
    bad(&binary(PROXY, 0x21, &v4));
    bad(&binary(PROXY, 0x11, &[v4.as_slice(), &[1, 0, 3, b'h', b'2']].concat()));
    bad(&binary(PROXY, 0x11, &[v4.as_slice(), &[1]].concat()));
    bad(&binary(PROXY, 0x11, &vec![0; MAX]));
}
