//! Bytes read as decisions. Once dry it gives zeros and says so.

/// See the module.
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// Over all of them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing is left.
    pub fn is_dry(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Below `n`, which is at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// True this often in 256.
    pub fn chance(&mut self, of_256: u8) -> bool {
        self.byte() < of_256
    }

    pub fn pick<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.below(from.len())]
    }

    /// A number, most often a small one.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX - u64::from(self.byte()),
            254 => u64::from(self.byte()) << 56 | u64::from(self.byte()),
            253 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            small => u64::from(small % 16),
        }
    }

    /// As many bytes as the next two say, or all that are left.
    pub fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        let (chunk, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        chunk
    }
}
