//! Frames of a size the peer takes: several messages each, under 1 MiB.

use hive_proto::sidecar_v1::SessionRequest;
use prost::Message as _;

/// Largest frame made, unless a single message is larger.
pub(super) const FRAME: usize = 1 << 20;
/// Room for the envelope.
const ENVELOPE: usize = 64;

/// Adds `next` to `last` if both are of one session and fit one frame; gives it back otherwise.
pub(crate) fn join(last: &mut SessionRequest, next: SessionRequest) -> Option<SessionRequest> {
    let same = last.session == next.session && last.leader == next.leader;
    if same && last.encoded_len() + next.encoded_len() <= FRAME {
        last.messages.extend(next.messages);
        None
    } else {
        Some(next)
    }
}

/// Splits a frame that is too large, between messages.
pub(super) fn split(request: SessionRequest) -> Vec<SessionRequest> {
    if request.encoded_len() <= FRAME {
        return vec![request];
    }
    let SessionRequest { session, leader, messages } = request;
    let empty = || SessionRequest { session, leader, messages: Vec::new() };
    let (mut frames, mut last, mut size) = (Vec::new(), empty(), ENVELOPE);
    for message in messages {
        let len = message.encoded_len() + ENVELOPE;
        if size + len > FRAME && !last.messages.is_empty() {
            frames.push(std::mem::replace(&mut last, empty()));
            size = ENVELOPE;
        }
        size += len;
        last.messages.push(message);
    }
    frames.push(last);
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use hive_proto::sidecar_v1::{Progress, SidecarMessage, sidecar_message::Kind};
    use proptest::prelude::*;

    fn request(sizes: &[usize]) -> SessionRequest {
        let message = |(n, &len): (usize, &usize)| SidecarMessage {
            kind: Some(Kind::Progress(Progress { message: format!("{n}:{}", "x".repeat(len)), ..Progress::default() })),
        };
        SessionRequest { session: None, leader: None, messages: sizes.iter().enumerate().map(message).collect() }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_lost_reordered_or_too_large(sizes in prop::collection::vec(0usize..300_000, 0..24)) {
            let whole = request(&sizes);
            let frames = split(whole.clone());
            prop_assert!(frames.iter().all(|f| f.encoded_len() <= FRAME));
            let mut joined = Vec::new();
            for frame in frames.clone() {
                joined.extend(frame.messages);
            }
            prop_assert_eq!(&joined, &whole.messages);
            let mut frames = frames.into_iter();
            let mut last = frames.next().expect("at least one");
            for frame in frames {
                if let Some(next) = join(&mut last, frame) {
                    prop_assert!(last.encoded_len() <= FRAME);
                    last = next;
                }
            }
        }
    }
}
