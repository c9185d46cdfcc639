//! The answers that the proxy gives itself.

use std::io::Write;

/// Why the proxy answers instead of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The request has no single reading; says what is wrong with it.
    Malformed(&'static str),
    /// No route takes it.
    NoRoute,
    /// The head did not come in time.
    Slow,
    /// The body is longer than the listener allows.
    BodyTooLarge,
    /// Too many come; there is room again in so many seconds.
    Limited(u32),
    /// The target is longer than [`super::MAX_TARGET`].
    TargetTooLong,
    /// An expectation other than 100-continue (RFC 9110 §10.1.1).
    Expectation,
    /// The head is larger than [`super::MAX_HEAD`] or has more than [`super::MAX_FIELDS`] fields.
    HeadTooLarge,
    /// CONNECT: this is no forward proxy.
    Method,
    /// A WebSocket to where nothing changes its protocol.
    Tunnel,
    /// No backend answered properly.
    BadGateway,
    /// No backend is usable.
    Unavailable,
    /// All backends are at their limit, and as many wait as may.
    QueueFull,
    /// No backend became free in time.
    QueueTimeout,
    /// The backend did not answer in time.
    GatewayTimeout,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
}

impl Answer {
    /// Status code.
    pub fn status(self) -> u16 {
        match self {
            Answer::Malformed(_) => 400,
            Answer::NoRoute => 404,
            Answer::Slow => 408,
            Answer::BodyTooLarge => 413,
            Answer::TargetTooLong => 414,
            Answer::Expectation => 417,
            Answer::Limited(_) => 429,
            Answer::HeadTooLarge => 431,
            Answer::Method | Answer::Tunnel => 501,
            Answer::BadGateway => 502,
            Answer::Unavailable | Answer::QueueFull | Answer::QueueTimeout => 503,
            Answer::GatewayTimeout => 504,
            Answer::Version => 505,
        }
    }

    /// Reason phrase and the text of the body.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Answer::Malformed(why) => ("Bad Request", why),
            Answer::NoRoute => ("Not Found", "no route takes this request"),
            Answer::Slow => ("Request Timeout", "the request did not come in time"),
            Answer::BodyTooLarge => ("Content Too Large", "the request body is too large"),
            Answer::TargetTooLong => ("URI Too Long", "the request target is too long"),
            Answer::Expectation => ("Expectation Failed", "only 100-continue can be expected"),
            Answer::Limited(_) => ("Too Many Requests", "too many requests of this kind come"),
            Answer::HeadTooLarge => ("Request Header Fields Too Large", "the request head is too large"),
            Answer::Method => ("Not Implemented", "CONNECT is not served here"),
            Answer::Tunnel => ("Not Implemented", "no WebSocket is served here"),
            Answer::BadGateway => ("Bad Gateway", "no backend answered properly"),
            Answer::Unavailable => ("Service Unavailable", "no backend can take the request"),
            Answer::QueueFull => ("Service Unavailable", "all backends are busy and the queue is full"),
            Answer::QueueTimeout => ("Service Unavailable", "no backend became free in time"),
            Answer::GatewayTimeout => ("Gateway Timeout", "the backend did not answer in time"),
            Answer::Version => ("HTTP Version Not Supported", "HTTP/1.0 or HTTP/1.1 is spoken here"),
        }
    }

    /// Appends the whole response.
    pub fn write(self, out: &mut Vec<u8>, head_only: bool, keep_alive: bool) {
        let (reason, text) = self.words();
        let connection = if keep_alive { "" } else { "Connection: close\r\n" };
        let _ = write!(out, "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain\r\n", self.status());
        if let Answer::Limited(seconds) = self {
            let _ = write!(out, "Retry-After: {seconds}\r\n"); // RFC 6585 §4
        }
        let _ = write!(out, "Content-Length: {}\r\n{connection}\r\n", text.len() + 1);
        if !head_only {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
    }
}
