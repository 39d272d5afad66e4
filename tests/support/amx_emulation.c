/* Emulates the AMX instructions (tiles and products of bytes) on a processor without them: LD_PRELOAD this library.
 * Each instruction raises SIGILL, and the handler computes it. Slow; for finding out whether kernels are right. What
 * the processor would refuse ends the process by SIGILL (#UD) or SIGSEGV (#GP). Restarts (start_row) are left out.
 * Semantics: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, and volume 1 chapter 18. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define ROWS 16
#define ROW_BYTES 64

typedef struct { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; } Config;

static __thread Config config;
static __thread uint8_t tiles[8][ROWS][ROW_BYTES];
static uint64_t counted;

static const int registers[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

typedef struct { uint64_t address, stride; int length; } Operand;

/* The memory operand behind modrm. A tile's index register is the stride of its rows, not part of the address. */
static Operand memory(const uint8_t *modrm, greg_t *regs, int x, int b, int tile, uint64_t end_of_opcode) {
    int mod = modrm[0] >> 6, rm = modrm[0] & 7, length = 1;
    Operand found = {0, 0, 0};
    int base = rm, has_base = 1;
    if (rm == 4) {
        int scale = modrm[1] >> 6, index = ((modrm[1] >> 3) & 7) | (x << 3);
        base = modrm[1] & 7;
        length = 2;
        uint64_t scaled = index == 4 ? 0 : (uint64_t)regs[registers[index]] << scale;
        if (tile) found.stride = scaled; else found.address += scaled;
        has_base = !(base == 5 && mod == 0);
    } else if (rm == 5 && mod == 0) {
        int32_t displacement;
        memcpy(&displacement, modrm + 1, 4);
        found.length = 5;
        found.address = end_of_opcode + 5 + displacement;
        return found;
    }
    if (has_base) found.address += regs[registers[base | (b << 3)]];
    if (mod == 1) { found.address += (int8_t)modrm[length]; length += 1; }
    if (mod == 2 || !has_base) {
        int32_t displacement;
        memcpy(&displacement, modrm + length, 4);
        found.address += displacement;
        length += 4;
    }
    found.length = length;
    return found;
}

static void multiply(int c, int a, int b, int a_signed, int b_signed) {
    for (int m = 0; m < config.rows[c]; m++)
        for (int k = 0; k < config.colsb[a] / 4; k++)
            for (int n = 0; n < config.colsb[c] / 4; n++) {
                int32_t sum;
                memcpy(&sum, tiles[c][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) {
                    uint8_t left = tiles[a][m][4 * k + i], right = tiles[b][k][4 * n + i];
                    sum += (a_signed ? (int8_t)left : left) * (b_signed ? (int8_t)right : right);
                }
                memcpy(tiles[c][m] + 4 * n, &sum, 4);
            }
    for (int m = config.rows[c]; m < ROWS; m++) memset(tiles[c][m], 0, ROW_BYTES);
}

/* The instruction is executed again, and ends the process. */
static void refuse(void) { signal(SIGILL, SIG_DFL); }

static void refuse_memory(void) {
    signal(SIGSEGV, SIG_DFL);
    kill(getpid(), SIGSEGV);
}

static int allowed(const Config *loaded) {
    if (loaded->palette > 1) return 0;
    for (int i = 0; i < 14; i++)
        if (loaded->reserved[i]) return 0;
    for (int i = 0; i < 16; i++) {
        int exists = i < 8 && loaded->palette;
        if (loaded->rows[i] > (exists ? ROWS : 0) || loaded->colsb[i] > (exists ? ROW_BYTES : 0)) return 0;
        if (!loaded->rows[i] != !loaded->colsb[i]) return 0;
    }
    return 1;
}

/* Whether a tile of the configuration can be read and written. */
static int usable(int tile) { return config.palette && config.rows[tile] && config.colsb[tile] % 4 == 0; }

static void handle(int number, siginfo_t *info, void *context) {
    (void)number; (void)info;
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)regs[REG_RIP];
    /* VEX.128, map 0F38, W0, no ninth tile, no third operand but in products. */
    if (at[0] != 0xC4 || (at[1] & 0x9F) != 0x82 || (at[2] & 0xC4) != 0x40) { refuse(); return; }
    int x = !(at[1] & 0x40), b = !(at[1] & 0x20), third = (~at[2] >> 3) & 7, prefix = at[2] & 3;
    if (at[3] != 0x5E && third) { refuse(); return; }
    const uint8_t *modrm = at + 4;
    int mod = modrm[0] >> 6, reg = (modrm[0] >> 3) & 7, rm = modrm[0] & 7, length = 1;
    uint64_t end = (uint64_t)modrm;
    if (at[3] == 0x49 && mod == 3 && prefix == 0 && modrm[0] == 0xC0) {
        memset(&config, 0, sizeof config);
    } else if (at[3] == 0x49 && mod == 3 && prefix == 3 && rm == 0) {
        if (!usable(reg)) { refuse(); return; }
        memset(tiles[reg], 0, sizeof tiles[reg]);
    } else if (at[3] == 0x49 && mod != 3 && prefix < 2 && reg == 0) {
        Operand operand = memory(modrm, regs, x, b, 0, end);
        length = operand.length;
        if (prefix == 0) {
            Config loaded;
            memcpy(&loaded, (void *)operand.address, sizeof loaded);
            if (!allowed(&loaded)) { refuse_memory(); return; }
            config = loaded;
            memset(tiles, 0, sizeof tiles);
        } else {
            memcpy((void *)operand.address, &config, sizeof config);
        }
    } else if (at[3] == 0x4B && mod != 3 && rm == 4 && prefix) {
        if (!usable(reg)) { refuse(); return; }
        Operand operand = memory(modrm, regs, x, b, 1, end);
        length = operand.length;
        if (prefix == 2) {
            for (int row = 0; row < config.rows[reg]; row++)
                memcpy((void *)(operand.address + row * operand.stride), tiles[reg][row], config.colsb[reg]);
        } else {
            memset(tiles[reg], 0, sizeof tiles[reg]);
            for (int row = 0; row < config.rows[reg]; row++)
                memcpy(tiles[reg][row], (void *)(operand.address + row * operand.stride), config.colsb[reg]);
        }
    } else if (at[3] == 0x5E && mod == 3 && !b) {
        /* The first factor is rm, the second the register in vvvv. */
        if (!usable(reg) || !usable(rm) || !usable(third) || reg == rm || reg == third || rm == third ||
            config.rows[third] != config.colsb[rm] / 4 || config.rows[rm] != config.rows[reg] ||
            config.colsb[third] != config.colsb[reg]) { refuse(); return; }
        multiply(reg, rm, third, prefix >= 2, prefix & 1 ? 1 : 0);
        __atomic_fetch_add(&counted, 1, __ATOMIC_RELAXED);
    } else {
        refuse();
        return;
    }
    regs[REG_RIP] += 4 + length;
}

/* The kernel would refuse ARCH_REQ_XCOMP_PERM. */
long emulated_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");
long emulated_syscall(long number, long a, long b, long c, long d, long e, long f) {
    if (number == SYS_arch_prctl && a == REQUEST_PERMISSION) return 0;
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) { errno = -result; return -1; }
    return result;
}

static void report(void) {
    const char *file = getenv("AMX_EMULATION_COUNT");
    if (file && counted) {
        FILE *out = fopen(file, "a");
        if (out) { fprintf(out, "%d %lu\n", getpid(), (unsigned long)counted); fclose(out); }
    }
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {0};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, NULL);
    atexit(report);
}
