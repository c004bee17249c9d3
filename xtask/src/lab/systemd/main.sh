# The lab's command as a service of systemd's; its end is the lab's.
/bin/sh /tmp/lab-command
# isa-debug-exit: QEMU ends with twice the number, plus one.
printf "\\x$(printf %02x $?)" | dd of=/dev/port bs=1 seek=244 conv=notrunc 2> /dev/null
reboot -f
