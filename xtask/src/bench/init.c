/*
 * The emptiest init: says one byte on the console, then serves the channel's
 * port as a yardstick. What the guest agent does beyond this is our cost.
 *
 * On the port, after its first byte 'R': "z" asks for ZEROS bytes of zeros;
 * anything else comes back, BLOCK bytes at a time.
 */
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

enum { ZEROS = 64 << 20, CHUNK = 64 << 10, BLOCK = 4096 };

static char buffer[CHUNK];

static void put(int fd, long count)
{
    while (count > 0) {
        long done = write(fd, buffer, count < CHUNK ? count : CHUNK);
        if (done <= 0)
            break;
        count -= done;
    }
}

int main(void)
{
    write(1, "R", 1);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    int port = open("/dev/vport0p1", O_RDWR);
    while (port >= 0) {
        long got = read(port, buffer, 1);
        if (got != 1)
            continue;
        if (buffer[0] == 'z') {
            buffer[0] = 0;
            put(port, ZEROS);
            continue;
        }
        while (got < BLOCK) {
            long more = read(port, buffer + got, BLOCK - got);
            if (more > 0)
                got += more;
        }
        put(port, BLOCK);
    }
    for (;;)
        pause();
}
