//! Watches: lines of JSON for as long as both sides like.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Body, Call, built, refused, text};
use crate::cluster::Target;
use crate::failure::Failure;
use crate::server::Shared;
use crate::table::Form;
use crate::watch::{self, Watch};

/// Longest watch; a real server's are between half an hour and a whole one.
const LONGEST: Duration = Duration::from_secs(3600);

type Line = io::Result<Frame<Bytes>>;

/// Begins a watch. `cut`: breaks the connection after so many events.
pub(super) fn watch(
    shared: &Arc<Shared>,
    call: &Call,
    target: &Target,
    cut: Option<u32>,
) -> Response<Body> {
    // Before the first look, so that nothing falls between the two.
    let moved = shared.moved.subscribe();
    let drops = shared.faults().drops(&target.resource.plural);
    match begun(shared, call, target) {
        Ok((watch, events)) => {
            // A slow client holds up its own watch and nothing else.
            let (sender, receiver) = mpsc::channel(64);
            let run = Run {
                drops,
                moved,
                shared: Arc::clone(shared),
                watch,
                sender,
                cut,
                plural: target.resource.plural.clone(),
                bookmarks: call.query.bookmarks,
                end: Instant::now() + call.query.timeout.unwrap_or(LONGEST).min(LONGEST),
            };
            tokio::spawn(run.run(events));
            let lines = stream::unfold(receiver, |mut receiver| async move {
                let line: Line = receiver.recv().await?;
                if line.is_err() {
                    // What came before it is written out while this waits.
                    tokio::task::yield_now().await;
                }
                Some((line, receiver))
            });
            built(200, BodyExt::boxed(StreamBody::new(lines)))
        }
        Err(failure) => refused(&failure),
    }
}

fn begun(shared: &Shared, call: &Call, target: &Target) -> Result<(Watch, Vec<Value>), Failure> {
    let form = Form::accepted(text(&call.headers, "accept"), &call.raw_query)?;
    let plain = shared.faults().plain_expiry;
    let cluster = shared.cluster();
    let (mut watch, mut events) = Watch::begin(&cluster, target, &call.query, form)?;
    match watch.next(&cluster) {
        Ok(more) => events.extend(more),
        Err(failure) if plain => return Err(failure),
        Err(failure) => events.push(watch::error(&failure)),
    }
    Ok((watch, events))
}

struct Run {
    shared: Arc<Shared>,
    watch: Watch,
    sender: mpsc::Sender<Line>,
    cut: Option<u32>,
    drops: u64,
    moved: tokio::sync::watch::Receiver<u64>,
    plural: String,
    bookmarks: bool,
    end: Instant,
}

/// The watch is over.
struct Over;

impl Run {
    async fn run(mut self, events: Vec<Value>) {
        let mut next_bookmark = Instant::now() + self.shared.bookmarks;
        let mut events = events;
        loop {
            if self.send(events).await.is_err() || self.dropped().await {
                return;
            }
            tokio::select! {
                // The sender lives in what this holds.
                _ = self.moved.changed() => {}
                () = tokio::time::sleep_until(next_bookmark), if self.bookmarks => {
                    next_bookmark = Instant::now() + self.shared.bookmarks;
                    events = vec![self.watch.bookmark(false)];
                    continue;
                }
                () = tokio::time::sleep_until(self.end) => {
                    if self.bookmarks {
                        let last = vec![self.watch.bookmark(false)];
                        let _ = self.send(last).await;
                    }
                    return;
                }
                () = self.sender.closed() => return,
            }
            events = self.news();
        }
    }

    fn news(&mut self) -> Vec<Value> {
        let cluster = self.shared.cluster();
        self.watch
            .next(&cluster)
            .unwrap_or_else(|failure| vec![watch::error(&failure)])
    }

    async fn send(&mut self, events: Vec<Value>) -> Result<(), Over> {
        for event in events {
            if self.cut == Some(0) {
                self.broken().await;
                return Err(Over);
            }
            self.cut = self.cut.map(|left| left - 1);
            let last = event["type"] == "ERROR";
            let line = Bytes::from(format!("{event}\n"));
            self.sender
                .send(Ok(Frame::data(line)))
                .await
                .map_err(|_| Over)?;
            if last {
                return Err(Over);
            }
        }
        Ok(())
    }

    async fn dropped(&self) -> bool {
        let drops = self.shared.faults().drops(&self.plural);
        if drops == self.drops {
            return false;
        }
        self.broken().await;
        true
    }

    /// Ends the connection in the middle of the answer.
    async fn broken(&self) {
        let _ = self
            .sender
            .send(Err(io::ErrorKind::ConnectionReset.into()))
            .await;
    }
}
