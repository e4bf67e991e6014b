//! inet, cidr, macaddr, macaddr8.
//!
//! Source: server functions `network_send`, `network_out`, `macaddr_send`, `macaddr_out`; server file
//! `port/inet_net_ntop.c`.
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Invalid, Result};

/// An `inet` or `cidr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// How many of its bits are the network's.
    pub prefix: u8,
    /// Whether it is a `cidr`, which always prints its prefix.
    pub is_cidr: bool,
}

impl Network {
    /// Whether the prefix is as long as the address.
    pub fn is_single(self) -> bool {
        self.prefix == longest(self.address)
    }
}

fn longest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

const MALFORMED: Invalid = Invalid("not a network address");

/// What `inet_send` or `cidr_send` wrote.
///
/// # Errors
/// When it is cut short or of another family.
pub fn binary(bytes: &[u8], is_cidr: bool) -> Result<Network> {
    let (&[family, prefix, flag, length], rest) = bytes.split_first_chunk().ok_or(MALFORMED)?;
    let address = match (family, length) {
        (2, 4) => IpAddr::from(<[u8; 4]>::try_from(rest).map_err(|_| MALFORMED)?),
        (3, 16) => IpAddr::from(<[u8; 16]>::try_from(rest).map_err(|_| MALFORMED)?),
        _ => return Err(MALFORMED),
    };
    checked(Network { address, prefix, is_cidr }).filter(|_| flag == u8::from(is_cidr)).ok_or(MALFORMED)
}

/// A prefix is no longer than its address, and a network has no bits to the right of it.
fn checked(network: Network) -> Option<Network> {
    let host = longest(network.address).checked_sub(network.prefix)?;
    let number = match network.address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    };
    let beyond = u128::MAX.checked_shl(host.into()).map_or(u128::MAX, |mask| !mask);
    (!network.is_cidr || number & beyond == 0).then_some(network)
}

/// What `inet_out` or `cidr_out` prints.
///
/// # Errors
/// When it is something else.
pub fn text(bytes: &[u8], is_cidr: bool) -> Result<Network> {
    let text = std::str::from_utf8(bytes).map_err(|_| MALFORMED)?;
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| MALFORMED)?;
    let prefix = match prefix {
        None if is_cidr => return Err(MALFORMED),
        None => longest(address),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map_err(|_| MALFORMED)?,
        Some(_) => return Err(MALFORMED),
    };
    checked(Network { address, prefix, is_cidr }).ok_or(MALFORMED)
}

/// Write it as PostgreSQL prints it.
pub fn print(out: &mut Vec<u8>, network: Network) {
    // Writing to memory does not fail.
    let _ = match network.address {
        IpAddr::V4(address) => write!(out, "{address}"),
        IpAddr::V6(address) => print_v6(out, address),
    };
    if network.is_cidr || !network.is_single() {
        let _ = write!(out, "/{}", network.prefix);
    }
}

/// The longest run of at least two zero words becomes `::`; what stands for an IPv4 address ends like one.
fn print_v6(out: &mut Vec<u8>, address: Ipv6Addr) -> std::io::Result<()> {
    let words = address.segments();
    let (mut start, mut length) = (0_usize, 1_usize);
    let mut run = 0_usize;
    for (place, &word) in words.iter().enumerate() {
        run = if word == 0 { run.saturating_add(1) } else { 0 };
        if run > length {
            (start, length) = (place.saturating_add(1).saturating_sub(run), run);
        }
    }
    if length < 2 {
        length = 0;
    }
    let end = start.saturating_add(length);
    let [.., sixth, _, last] = words;
    let holds_v4 = length > 0
        && start == 0
        && match length {
            5 => sixth == 0xffff,
            6 => true,
            7 => last != 1,
            _ => false,
        };
    for (place, word) in words.into_iter().enumerate() {
        if (start..end).contains(&place) {
            if place == start {
                out.push(b':');
            }
            continue;
        }
        if place > 0 {
            out.push(b':');
        }
        if holds_v4 && place == 6 {
            let [.., a, b, c, d] = address.octets();
            return write!(out, "{}", Ipv4Addr::new(a, b, c, d));
        }
        write!(out, "{word:x}")?;
    }
    if length > 0 && end == words.len() {
        out.push(b':');
    }
    Ok(())
}

/// Write what `macaddr_send` or `macaddr8_send` wrote as PostgreSQL prints it.
///
/// # Errors
/// When it is not as long as that.
pub fn mac_binary(bytes: &[u8], length: usize, out: &mut Vec<u8>) -> Result<()> {
    if bytes.len() != length {
        return Err(Invalid("a value of another size than its type"));
    }
    for (place, byte) in bytes.iter().enumerate() {
        let colon = if place > 0 { ":" } else { "" };
        let _ = write!(out, "{colon}{byte:02x}");
    }
    Ok(())
}

/// Check what `macaddr_out` or `macaddr8_out` prints.
///
/// # Errors
/// When it is something else.
pub fn mac_text(bytes: &[u8], length: usize) -> Result<&[u8]> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let pair = |pair: &[u8]| matches!(*pair, [high, low] if digit(high) && digit(low));
    let mut pairs = bytes.split(|&byte| byte == b':');
    let all = pairs.by_ref().take(length).filter(|each| pair(each)).count() == length && pairs.next().is_none();
    if all { Ok(bytes) } else { Err(Invalid("not a hardware address")) }
}
