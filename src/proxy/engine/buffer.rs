//! Read buffers: large ones are shared by all connections of a thread, and a connection holds one only while it has
//! bytes to work on. An idle connection holds none.

use std::cell::RefCell;

/// Size of a shared buffer: a whole head fits, and bulk data needs few reads.
pub(crate) const SIZE: usize = 64 * 1024;
/// Free buffers kept per thread.
const KEEP: usize = 64;
/// What waits for more bytes and is not longer than this moves to a buffer of its own size.
const SMALL: usize = 4 * 1024;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static FREE_OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Box<[u8]> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

fn give(buffer: Box<[u8]>) {
    if buffer.len() == SIZE {
        FREE.with_borrow_mut(|free| {
            if free.len() < KEEP {
                free.push(buffer)
            }
        });
    }
}

/// Bytes read and not yet used.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The bytes, to be worked on in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Adds bytes behind what is there; an error when there is no room.
    pub(crate) fn append(&mut self, data: &[u8]) -> std::io::Result<()> {
        if self.end + data.len() > self.data.len() {
            self.make_room();
        }
        let room = self.data.get_mut(self.end..self.end + data.len());
        let room = room.ok_or_else(|| std::io::Error::other("the buffer is full"))?;
        room.copy_from_slice(data);
        self.end += data.len();
        Ok(())
    }

    /// The first `n` bytes are used.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.release();
        }
    }

    /// Room to read into, behind what is there; empty when the buffer is full.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.data.len() < SIZE || self.end == SIZE {
            self.make_room();
        }
        &mut self.data[self.end..]
    }

    /// Makes the room behind the bytes as large as it can be.
    pub(crate) fn gather(&mut self) {
        if self.start > 0 {
            self.make_room();
        }
    }

    /// Moves the bytes to the start of a large buffer.
    fn make_room(&mut self) {
        let n = self.end - self.start;
        if self.data.len() < SIZE {
            let mut large = take();
            large[..n].copy_from_slice(&self.data[self.start..self.end]);
            self.data = large;
        } else if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, n);
    }

    /// So many bytes were read into the room.
    pub(crate) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.data.len());
    }

    /// There is nothing to read now: hold no more memory than the bytes need.
    pub(crate) fn wait(&mut self) {
        let n = self.end - self.start;
        if n == 0 {
            self.release();
        } else if n <= SMALL && self.data.len() == SIZE {
            let small: Box<[u8]> = self.bytes().into();
            give(std::mem::replace(&mut self.data, small));
            (self.start, self.end) = (0, n);
        }
    }

    fn release(&mut self) {
        give(std::mem::take(&mut self.data));
        (self.start, self.end) = (0, 0);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Bytes to write, in memory that goes back to the thread.
#[derive(Debug)]
pub(crate) struct Out(Vec<u8>);

impl Out {
    pub(crate) fn new() -> Out {
        Out(FREE_OUT.with_borrow_mut(Vec::pop).unwrap_or_default())
    }
}

impl std::ops::Deref for Out {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for Out {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.capacity() <= 2 * SIZE {
            memory.clear();
            FREE_OUT.with_borrow_mut(|free| {
                if free.len() < KEEP {
                    free.push(memory)
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_buffer_holds_nothing_and_a_partial_one_what_it_needs() {
        let mut buffer = Buffer::default();
        buffer.room()[..5].copy_from_slice(b"hello");
        buffer.filled(5);
        buffer.consume(2);
        buffer.wait();
        assert_eq!((buffer.bytes(), buffer.data.len()), (b"llo".as_slice(), 3));
        buffer.room()[0] = b'!';
        buffer.filled(1);
        assert_eq!(buffer.bytes(), b"llo!");
        buffer.consume(4);
        assert_eq!(buffer.data.len(), 0);
    }
}
