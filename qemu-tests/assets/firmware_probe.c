// SPDX-License-Identifier: GPL-2.0
/* Asks for firmware while it is loaded, and shows what it got. */
#include <linux/firmware.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static void show(struct device *device, const char *name)
{
	const struct firmware *firmware;
	int error = request_firmware(&firmware, name, device);

	if (error) {
		pr_info("firmware_probe: %s: error %d\n", name, error);
		return;
	}
	pr_info("firmware_probe: %s: %.*s\n", name, (int)firmware->size, firmware->data);
	release_firmware(firmware);
}

static int __init firmware_probe_init(void)
{
	struct platform_device *device = platform_device_register_simple("firmware_probe", -1, NULL, 0);

	if (IS_ERR(device))
		return PTR_ERR(device);
	show(&device->dev, "plywood/plain.bin");
	show(&device->dev, "plywood/packed.bin");
	platform_device_unregister(device);
	return 0;
}

static void __exit firmware_probe_exit(void)
{
}

module_init(firmware_probe_init);
module_exit(firmware_probe_exit);
MODULE_DESCRIPTION("Asks for firmware and shows it");
MODULE_LICENSE("GPL");
