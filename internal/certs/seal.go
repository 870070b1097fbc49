package certs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keySize is that of AES-256.
const keySize = 32

// sealVersion is the first byte of what is sealed.
const sealVersion = 1

// errWrongKey says that something was sealed with a key that is not known.
var errWrongKey = errors.New("sealed with a key that is not among those of CERT_ENCRYPTION_KEY")

// errDamaged says that something sealed was changed, cut or moved.
var errDamaged = errors.New("damaged, or moved here from elsewhere")

// Keys seal what is stored, with AES-256-GCM. The first seals, each opens.
type Keys []sealKey

type sealKey struct {
	id   [4]byte // tells keys apart; says nothing about them
	aead cipher.AEAD
}

// ParseKeys reads keys of 32 bytes in base64, the newest first, with commas or
// newlines between them. Its error does not hold them.
func ParseKeys(s string) (Keys, error) {
	var keys Keys
	for field := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		b, err := base64.StdEncoding.DecodeString(field)
		if err != nil || len(b) != keySize {
			return nil, fmt.Errorf("key %d is not 32 bytes in base64; `openssl rand -base64 32` makes one", len(keys)+1)
		}
		k, err := newKey(b)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key; `openssl rand -base64 32` makes one")
	}
	return keys, nil
}

func newKey(b []byte) (sealKey, error) {
	block, err := aes.NewCipher(b)
	if err != nil {
		return sealKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealKey{}, err
	}
	sum := sha256.Sum256(b)
	return sealKey{[4]byte(sum[:4]), aead}, nil
}

// seal seals data as what is stored under id, and nowhere else.
func (k Keys) seal(kind Kind, id ID, data []byte) []byte {
	out := append([]byte{sealVersion}, k[0].id[:]...)
	return k[0].aead.Seal(out, nil, data, additional(kind, id))
}

// open returns what was sealed as what is stored under id, and whether the
// first key did it.
func (k Keys) open(kind Kind, id ID, sealed []byte) (data []byte, first bool, err error) {
	if len(sealed) < 5 || sealed[0] != sealVersion {
		return nil, false, errDamaged
	}
	known := false
	for i, key := range k {
		if !bytes.Equal(key.id[:], sealed[1:5]) {
			continue
		}
		known = true
		if data, err := key.aead.Open(nil, nil, sealed[5:], additional(kind, id)); err == nil {
			return data, i == 0, nil
		}
	}
	if !known {
		return nil, false, errWrongKey
	}
	return nil, false, errDamaged
}

func additional(kind Kind, id ID) []byte {
	return []byte(strings.Join([]string{string(kind), id.Directory, id.Name}, "\x00"))
}

// A KeyFile is where the keys of a helloapi on one machine are: a file that
// only its user can read. It is made at the first start.
type KeyFile string

// read returns the keys, or nil if there is no file.
func (f KeyFile) read() (Keys, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the key of the certificates: %w", err)
	}
	keys, err := ParseKeys(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return keys, nil
}

// create makes the file, with a new key. It is there whole or not at all.
func (f KeyFile) create() (_ Keys, err error) {
	b := make([]byte, keySize)
	rand.Read(b)
	tmp, err := os.CreateTemp(filepath.Dir(string(f)), ".key-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("make the key of the certificates: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = fmt.Fprintln(tmp, base64.StdEncoding.EncodeToString(b))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), string(f))
	}
	if err == nil {
		err = syncDir(filepath.Dir(string(f))) // before anything is sealed with it
	}
	if err != nil {
		return nil, fmt.Errorf("make the key of the certificates: %w", err)
	}
	k, err := newKey(b)
	return Keys{k}, err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
