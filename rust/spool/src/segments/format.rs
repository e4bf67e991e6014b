//! What the files of a spool consist of.
//!
//! Numbers are big-endian. The file `spool` is its signature, the version, the spool's id and the CRC-32 of all that. A segment
//! begins with the same and the number of its first block. A block is a header and bytes in LZ4's block format. The CRC-32
//! of a header is of the spool's id and of the place where it stands, too: what a disk brings up from elsewhere is no header.
use pgoutput::cursor::Cursor;

use super::{Id, Mark};

const SPOOL: &[u8; 7] = b"pgspool";
const SEGMENT: &[u8; 7] = b"pgsegmt";
const VERSION: u8 = 1;

/// The length of the file `spool`, and of what a segment begins with, in bytes.
pub const SPOOL_LENGTH: usize = 28;
pub const SEGMENT_LENGTH: usize = 36;
/// The length of a block's header in bytes.
pub const HEADER_LENGTH: usize = 61;
/// What a block's header begins with.
pub const BLOCK: &[u8; 4] = b"pgbk";

fn with_sum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes
}

/// The bytes before the CRC-32, when that is theirs.
fn without_sum(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, sum) = bytes.split_last_chunk::<4>()?;
    (crc32fast::hash(rest) == u32::from_be_bytes(*sum)).then_some(rest)
}

/// What the file `spool` holds.
pub fn spool(id: Id) -> Vec<u8> {
    with_sum([SPOOL.as_slice(), &[VERSION], &id].concat())
}

/// The id in the file `spool`; the reason when there is none.
pub fn parse_spool(bytes: &[u8]) -> Result<Id, &'static str> {
    let rest =
        without_sum(bytes).and_then(|rest| rest.strip_prefix(SPOOL)).ok_or("it is not what a spool begins with")?;
    let (version, id) = rest.split_first().ok_or("it is cut short")?;
    if *version != VERSION {
        return Err("it is of another version");
    }
    id.try_into().map_err(|_| "it has another length")
}

/// What a segment begins with.
pub fn segment(id: Id, first: u64) -> Vec<u8> {
    with_sum([SEGMENT.as_slice(), &[VERSION], &id, &first.to_be_bytes()].concat())
}

/// The name of a segment.
pub fn name(first: u64) -> String {
    format!("{first:020}.segment")
}

/// The number of the first block in a segment, by its name.
pub fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    let first = digits.parse().ok()?;
    (self::name(first) == name).then_some(first)
}

/// What stands before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The length of the block, before and after it was compressed, in bytes.
    pub whole: u32,
    pub packed: u32,
    /// The CRC-32 of the compressed bytes.
    pub sum: u32,
    pub sequence: u64,
    /// So much of the segment was durable when the block was written.
    pub durable: u64,
    pub mark: Mark,
}

fn header_sum(id: Id, offset: u64, fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id);
    hasher.update(&offset.to_be_bytes());
    hasher.update(fields);
    hasher.finalize()
}

impl Header {
    /// What the block takes with its header, in bytes.
    pub fn size(&self) -> u64 {
        (HEADER_LENGTH as u64).saturating_add(u64::from(self.packed))
    }

    /// The header of a block that stands at an offset of its segment.
    pub fn encode(&self, id: Id, offset: u64) -> Vec<u8> {
        let (lsn, index) = self.mark.last.unwrap_or_default();
        let fields = [
            self.whole.to_be_bytes().as_slice(),
            &self.packed.to_be_bytes(),
            &self.sum.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.durable.to_be_bytes(),
            &self.mark.through_lsn.to_be_bytes(),
            &[u8::from(self.mark.last.is_some())],
            &lsn.to_be_bytes(),
            &index.to_be_bytes(),
        ]
        .concat();
        [BLOCK.as_slice(), &header_sum(id, offset, &fields).to_be_bytes(), &fields].concat()
    }

    /// Read the header at an offset; None when there is none.
    pub fn parse(bytes: &[u8], id: Id, offset: u64) -> Option<Self> {
        let (sum, fields) = bytes.strip_prefix(BLOCK)?.split_first_chunk::<4>()?;
        if header_sum(id, offset, fields) != u32::from_be_bytes(*sum) {
            return None;
        }
        let mut cursor = Cursor::new(fields);
        let header = Self {
            whole: cursor.u32("length").ok()?,
            packed: cursor.u32("compressed length").ok()?,
            sum: cursor.u32("CRC-32").ok()?,
            sequence: cursor.u64("sequence").ok()?,
            durable: cursor.u64("durable length").ok()?,
            mark: Mark { through_lsn: cursor.u64("LSN").ok()?, last: None },
        };
        let has_last = cursor.u8("flag").ok()? == 1;
        let last = (cursor.u64("commit LSN").ok()?, cursor.i64("index").ok()?);
        cursor.finish("header").ok()?;
        Some(Self { mark: Mark { last: has_last.then_some(last), ..header.mark }, ..header })
    }

    /// Undo the compression.
    pub fn unpack(&self, packed: &[u8], block: &mut Vec<u8>) -> bool {
        // The length is believed as far as LZ4's best ratio goes.
        let is_possible = u64::from(self.whole) <= u64::from(self.packed).saturating_mul(256).saturating_add(64);
        let whole = usize::try_from(self.whole).ok().filter(|_| is_possible);
        let Some(whole) = whole else { return false };
        block.resize(whole, 0);
        lz4_flex::block::decompress_into(packed, block).ok() == Some(whole)
    }
}

/// A block and its header, where there are no more than 4 GiB of it.
pub fn pack(block: &[u8], room: &mut Vec<u8>) -> Option<(u32, u32, u32)> {
    room.resize(lz4_flex::block::get_maximum_output_size(block.len()).saturating_add(HEADER_LENGTH), 0);
    let (_, body) = room.split_at_mut(HEADER_LENGTH);
    let length = lz4_flex::block::compress_into(block, body).ok()?;
    let sum = crc32fast::hash(body.get(..length)?);
    let sizes = (u32::try_from(block.len()).ok()?, u32::try_from(length).ok()?);
    room.truncate(length.saturating_add(HEADER_LENGTH));
    Some((sizes.0, sizes.1, sum))
}
