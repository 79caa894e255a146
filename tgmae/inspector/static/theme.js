// Before anything is drawn: the colours that were chosen on an earlier page.
"use strict";
try {
  const theme = localStorage.getItem("tgmae-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage is off: as the system */ }
