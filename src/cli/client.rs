//! HTTP: one node's admin API.

use crate::{command::Global, error::CliError};
use reqwest::{Method, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, io::Read, path::Path, time::Duration};
use zonekeeper_api::wire::{ErrorBody, ErrorDetail, Seen};

/// Longest token file, in bytes: a secret has less than a hundred.
const MAX_TOKEN: u64 = 4096;
/// Longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for an answer: members that join load a snapshot first.
const ANSWER_WITHIN: Duration = Duration::from_secs(150);

/// One node, one token.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    linearizable: bool,
}

impl Client {
    pub(crate) fn new(global: &Global) -> Result<Client, CliError> {
        let base = global.admin.trim_end_matches('/').to_owned();
        let base = if base.contains("://") { base } else { format!("http://{base}") };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .no_proxy() // the admin API is near, and a token must not pass a stranger
            .build()
            .map_err(|e| CliError::Usage(format!("no HTTP client: {e}")))?;
        Ok(Client { http, base, token: token(global)?, linearizable: global.linearizable })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let mut why = "no answer in time".to_owned();
        let mut cause: Option<&dyn Error> = Some(error);
        while let (Some(e), false) = (cause, error.is_timeout()) {
            why = e.to_string(); // the innermost says what the system said
            cause = e.source();
        }
        CliError::Unreachable { url: self.base.clone(), why }
    }

    async fn refused(&self, response: Response) -> CliError {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return CliError::Unauthorized { given: self.token.is_some() };
        }
        match response.json::<ErrorBody>().await {
            Ok(ErrorBody { error: ErrorDetail { code, message, remedy } }) => {
                CliError::Api { status: status.as_u16(), code, message, remedy }
            }
            Err(_) => self.foreign(format!("status {status}")),
        }
    }

    fn foreign(&self, why: String) -> CliError {
        CliError::Foreign { url: self.base.clone(), why }
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, CliError> {
        let response = self.send(request.timeout(ANSWER_WITHIN)).await?;
        response.json().await.map_err(|e| self.foreign(e.to_string()))
    }

    /// Reads, with generation and age.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Seen<T>, CliError> {
        self.get_with(path, &[]).await
    }

    /// Reads with a query.
    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Seen<T>, CliError> {
        let mut query = query.to_vec();
        if self.linearizable {
            query.push(("consistency", "linearizable".into()));
        }
        self.answer(self.request(Method::GET, &with_query(path, &query))).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        self.answer(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, CliError> {
        self.answer(self.request(Method::DELETE, &with_query(path, query))).await
    }

    /// Reads what is no JSON.
    pub(crate) async fn raw(&self, path: &str) -> Result<Response, CliError> {
        let query = if self.linearizable { "?consistency=linearizable" } else { "" };
        self.send(self.request(Method::GET, &format!("{path}{query}"))).await
    }

    /// What went wrong while an answer came in.
    pub(crate) fn cut(&self, error: &reqwest::Error) -> CliError {
        self.unreachable(error)
    }

    /// The event stream, from after `last` when it is given.
    pub(crate) async fn stream(&self, last: Option<u64>) -> Result<Response, CliError> {
        let request = self.request(Method::GET, "/v1/events");
        let request = match last {
            Some(last) => request.header("Last-Event-ID", last.to_string()),
            None => request,
        };
        self.send(request).await
    }
}

/// One segment of a path or one value of a query (RFC 3986 §2.1): everything unusual is escaped.
pub(crate) fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            b => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// The token: flag or environment, then file.
fn token(global: &Global) -> Result<Option<String>, CliError> {
    let text = match (&global.token, &global.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CliError::Usage(
            "the token is empty or holds odd characters; copy the whole line".into(),
        ));
    }
    Ok(Some(text.to_owned()))
}

fn read_token(path: &Path) -> Result<String, CliError> {
    let error = |source| CliError::File { path: path.into(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(MAX_TOKEN).read_to_string(&mut text).map_err(error)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_characters_of_names_do_not_change_the_path() {
        assert_eq!(escape("a/b c?d.\\@"), "a%2Fb%20c%3Fd.%5C%40");
        assert_eq!(
            with_query("/x", &[("a", "1&2".into()), ("b", "[::1]:80".into())]),
            "/x?a=1%262&b=%5B%3A%3A1%5D%3A80"
        );
    }
}
