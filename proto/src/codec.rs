//! gRPC's protobuf codec with a bound on what a message becomes in memory. An element of a list costs
//! two bytes on the wire and up to 336 in memory: without the bound a message of 4 MiB takes 700 MiB.
//!
//! Only the outermost fields are counted; what is inside them is for the checks after decoding.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use prost::encoding::{DecodeContext, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Most fields of one message, those of its submessages not counted. The longest lists that anybody
/// sends have some thousands.
pub const MOST_FIELDS: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for Bounded<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// The reading half.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Two bytes a field at least: a short message needs no count.
        if buf.remaining() > 2 * MOST_FIELDS && has_too_many_fields(buf.chunk()) {
            return Err(Status::internal(format!("failed to decode Protobuf message: more than {MOST_FIELDS} fields")));
        }
        self.0.decode(buf)
    }
}

/// Malformed ones are for the decoder to refuse, at the same place.
fn has_too_many_fields(mut message: &[u8]) -> bool {
    let mut fields = 0;
    while message.has_remaining() {
        let Ok((tag, kind)) = decode_key(&mut message) else { return false };
        fields += 1;
        if fields > MOST_FIELDS {
            return true;
        }
        let skipped = match kind {
            prost::encoding::WireType::LengthDelimited => decode_varint(&mut message).ok().and_then(|length| {
                message = message.get(usize::try_from(length).ok()?..)?;
                Some(())
            }),
            _ => skip_field(kind, tag, &mut message, DecodeContext::default()).ok(),
        };
        if skipped.is_none() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn batch(items: usize) -> Vec<u8> {
        let tasks = vec![v1::SubmitTaskRequest::default(); items];
        v1::SubmitTasksRequest { namespace: "default".into(), tasks }.encode_to_vec()
    }

    #[test]
    fn elements_are_counted_and_payloads_are_not() {
        assert!(!has_too_many_fields(&batch(MOST_FIELDS - 1)));
        assert!(has_too_many_fields(&batch(MOST_FIELDS)));
        // The same bytes as a payload are one field.
        let payload = v1::Payload { data: batch(MOST_FIELDS).into(), content_type: String::new() };
        assert!(!has_too_many_fields(&payload.encode_to_vec()));
        // Broken ones are the decoder's.
        assert!(!has_too_many_fields(&[0x0a, 0xff]));
    }
}
