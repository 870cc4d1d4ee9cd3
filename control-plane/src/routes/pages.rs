//! Replies that are pages of a list.

use crate::error::ApiError;
use axum::{
    http::header,
    response::{AppendHeaders, IntoResponse},
};
use serde::Serialize;
use tokio::sync::oneshot;

/// Approximate size of a list's entry.
const ENTRY_BYTES: usize = 1_280;

/// Entries of a long page that one thread writes.
const ENTRIES_OF_PART: usize = 500;

/// `Link: <…?cursor=N>; rel="next"` (RFC 8288) if the page was full.
pub fn next_link(path: &str, full: bool, last: Option<i64>, limit: u32, all: bool) -> Option<String> {
    let last = last.filter(|_| full)?;
    let all = if all { "&all=true" } else { "" };
    Some(format!("<{path}?limit={limit}&cursor={last}{all}>; rel=\"next\""))
}

/// The entries of one page as JSON, and where the next one is.
///
/// # Errors
/// 500 for what is no JSON.
pub fn reply<T: Serialize>(
    entries: &[T],
    next: Option<String>,
) -> Result<impl IntoResponse + use<T>, ApiError> {
    Ok(list_reply(list_of(entries)?, next))
}

/// As [`reply`], for pages that may be long: several threads write one, of which one serves requests.
///
/// # Errors
/// 500 for what is no JSON.
pub async fn long_reply<T: Serialize + Send + 'static>(
    mut entries: Vec<T>,
    next: Option<String>,
) -> Result<impl IntoResponse + use<T>, ApiError> {
    let mut parts = Vec::new();
    while entries.len() > ENTRIES_OF_PART {
        parts.push(written_elsewhere(entries.split_off(entries.len() - ENTRIES_OF_PART)));
    }
    let mut list = list_of(&entries)?;
    for part in parts.into_iter().rev() {
        let part = part.await.map_err(ApiError::internal)??;
        // One list: the end of the first and the beginning of the next become a comma.
        list.pop();
        list.push(b',');
        list.extend_from_slice(&part[1..]);
    }
    Ok(list_reply(list, next))
}

fn list_reply(list: Vec<u8>, next: Option<String>) -> impl IntoResponse {
    let next = AppendHeaders(next.map(|next| (header::LINK, next)));
    (next, [(header::CONTENT_TYPE, "application/json")], list)
}

fn list_of<T: Serialize>(entries: &[T]) -> Result<Vec<u8>, ApiError> {
    // Into a Vec: the buffer of [`axum::Json`] copies each of the many small pieces at a greater cost.
    let mut list = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    serde_json::to_writer(&mut list, entries).map_err(ApiError::internal)?;
    Ok(list)
}

/// Writes entries on a thread for work that blocks. They are dropped when the reply has what was written.
fn written_elsewhere<T: Serialize + Send + 'static>(
    entries: Vec<T>,
) -> oneshot::Receiver<Result<Vec<u8>, ApiError>> {
    let (sender, receiver) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        // Whoever asked may be gone.
        if !sender.is_closed() {
            let _ = sender.send(list_of(&entries));
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_page_is_one_list_in_the_order_of_its_entries() {
        let part = u32::try_from(ENTRIES_OF_PART).unwrap();
        for count in [0, 1, part, part + 1, 3 * part + 7] {
            let entries: Vec<u32> = (0..count).collect();
            let reply = long_reply(entries.clone(), None).await.unwrap().into_response();
            let body = axum::body::to_bytes(reply.into_body(), usize::MAX).await.unwrap();
            assert_eq!(serde_json::from_slice::<Vec<u32>>(&body).unwrap(), entries, "{count} entries");
        }
    }
}
