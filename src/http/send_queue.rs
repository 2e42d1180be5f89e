//! How much waits in a TCP socket's send queue, which no safe interface tells.
#![allow(unsafe_code)]
use rustix::ioctl::{Getter, Opcode, ioctl};
use std::{ffi::c_int, os::fd::AsFd};

/// SIOCOUTQ by its other name, tcp(7): bytes that are not sent, or sent and not acknowledged.
const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;

/// Bytes; `None` where the system does not tell.
pub(super) fn len(socket: impl AsFd) -> Option<u64> {
    // SAFETY: this request takes nothing and writes one int (tcp(7)); on another kind of file it is an error.
    let asked = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    u64::try_from(asked.ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn what_is_not_taken_is_counted_and_what_is_taken_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        assert_eq!(super::len(&server), Some(0));
        server.set_nonblocking(true).unwrap();
        // Until the buffers of both ends are full.
        let mut sent = 0;
        while let Ok(n) = server.write(&[7; 1 << 16]) {
            sent += n;
        }
        let full = super::len(&server).unwrap();
        assert!(full > 0 && full <= sent as u64, "{full} of {sent}");
        client.read_exact(&mut vec![0; sent]).unwrap();
        while super::len(&server) != Some(0) {
            std::thread::yield_now();
        }
        assert_eq!(super::len(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
