//! The same deaths of backends that speak HTTP/2.

use super::backends::{Death, Executed, reset};
use crate::support::spin;
use bytes::Bytes;
use h2::{RecvStream, server::Connection};
use http::{Request, Response};
use std::{pin::pin, time::Duration};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

/// Reads a request's body to its end and writes the request down.
async fn read(request: Request<RecvStream>, executed: &Executed) -> Option<()> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        let len = piece.ok()?.len();
        body.flow_control().release_capacity(len).ok()?;
    }
    *executed.lock().unwrap().entry(path).or_insert(0) += 1;
    Some(())
}

/// Serves all that comes.
pub async fn serve(stream: TcpStream, executed: Executed) -> Option<()> {
    let (answered, _others) = mpsc::unbounded_channel();
    let mut connection = h2::server::handshake(stream).await.ok()?;
    answer_each(&mut connection, &executed, 200, &answered).await
}

/// Answers each request when it was read, and says so.
async fn answer_each(
    connection: &mut Connection<TcpStream, Bytes>,
    executed: &Executed,
    status: u16,
    answered: &mpsc::UnboundedSender<()>,
) -> Option<()> {
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (executed, answered) = (executed.clone(), answered.clone());
        tokio::spawn(async move {
            read(request, &executed).await?;
            let text: &[u8] = if status == 200 { b"ok" } else { b"" };
            let head = Response::builder().status(status).header("content-length", text.len());
            let mut body = respond.send_response(head.body(()).ok()?, false).ok()?;
            body.send_data(Bytes::from_static(text), true).ok()?;
            answered.send(()).ok()
        });
    }
    None
}

/// Dies with a connection.
pub async fn die(death: Death, stream: TcpStream, executed: Executed, n: u64) -> Option<()> {
    let stream = stream.into_std().ok()?;
    let socket = stream.try_clone().ok()?;
    let stream = TcpStream::from_std(stream).ok()?;
    if death == Death::ResetsBeforeReading {
        reset(&socket);
        return None;
    }
    let mut connection = h2::server::handshake(stream).await.ok()?;
    let (answered, mut answers) = mpsc::unbounded_channel();
    match death {
        Death::Answers503 => return answer_each(&mut connection, &executed, 503, &answered).await,
        Death::ClosesAsReused => {
            tokio::select! {
                _ = answer_each(&mut connection, &executed, 200, &answered) => return None,
                _ = answers.recv() => {}
            }
            let flushed = answer_each(&mut connection, &executed, 200, &answered);
            drop(timeout(Duration::from_millis(2), flushed).await);
            // Somewhere in here the next request leaves the proxy.
            spin(Duration::from_micros(n * 37 % 400));
            // What came before the client knew is served, and nothing else (RFC 9113 §6.8).
            connection.graceful_shutdown();
            return answer_each(&mut connection, &executed, 200, &answered).await;
        }
        _ => {}
    }
    let (request, mut respond) = connection.accept().await?.ok()?;
    if death == Death::ResetsAfterHead {
        reset(&socket);
        return None;
    }
    {
        let mut reading = pin!(read(request, &executed));
        loop {
            tokio::select! {
                whole = &mut reading => break whole?,
                other = connection.accept() => drop(other?.ok()?),
            }
        }
    }
    match death {
        Death::DiesInResponseHead => {
            // the beginning of a frame of HEADERS (RFC 9113 §4.1)
            socket2::SockRef::from(&socket).send(&[0, 0, 5, 1, 4]).ok()?;
        }
        Death::DiesInBody => {
            let head = Response::builder().header("content-length", 100).body(()).ok()?;
            let mut body = respond.send_response(head, false).ok()?;
            body.send_data(Bytes::from_static(b"half"), false).ok()?;
            drop(timeout(Duration::from_millis(50), connection.accept()).await);
        }
        Death::Hangs => drop(timeout(Duration::from_secs(60), connection.accept()).await),
        Death::ResetsAfterRequest => reset(&socket),
        _ => {}
    }
    Some(())
}
