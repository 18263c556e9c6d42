//! What a handler's end becomes on the wire.

use hive_proto::agent_v1 as wire;

use crate::{PAYLOAD_LIMIT, Payload};

const TEXT_LIMIT: usize = 1024;

/// How a handler ended by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Output(Payload),
    Failure { message: String, retryable: bool },
}

/// The result of an attempt whose handler ended, or (without an end) was dropped.
pub(crate) fn result(token: String, end: Option<End>, cancelled: bool) -> wire::Result {
    let failed = |message: String, retryable| (wire::Outcome::Failed, None, text_within(message), retryable);
    let (outcome, payload, message, retryable) = match end {
        Some(End::Output(output)) if output.data().len() > PAYLOAD_LIMIT => {
            let bytes = output.data().len();
            failed(format!("the result has {bytes} bytes, the limit is {PAYLOAD_LIMIT}"), false)
        }
        // The work is done: a cancel that comes too late doesn't undo it.
        Some(End::Output(output)) => (wire::Outcome::Succeeded, Some(output.into()), String::new(), false),
        Some(End::Failure { message, retryable }) if !cancelled => failed(message, retryable),
        Some(End::Failure { .. }) | None => (wire::Outcome::Cancelled, None, String::new(), false),
    };
    wire::Result { token, outcome: outcome.into(), payload, message, retryable }
}

/// Cuts a text for people to the wire's limit, between characters.
pub(crate) fn text_within(mut text: String) -> String {
    if text.len() > TEXT_LIMIT {
        let mut end = TEXT_LIMIT - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_at_the_limit_passes_and_one_byte_more_fails() {
        for (bytes, outcome) in [(PAYLOAD_LIMIT, wire::Outcome::Succeeded), (PAYLOAD_LIMIT + 1, wire::Outcome::Failed)]
        {
            let told = result("a".to_owned(), Some(End::Output(Payload::bytes(vec![0; bytes], ""))), false);
            assert_eq!(told.outcome(), outcome);
            assert_eq!(told.message.is_empty(), outcome == wire::Outcome::Succeeded);
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(text_within("é".repeat(512)).len(), 1024);
        let cut = text_within("é".repeat(513));
        assert!(cut.len() <= 1024 && cut.ends_with("é…"));
    }
}
