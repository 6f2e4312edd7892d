"""The views: widgets of the .ui file wired to the parts' logics. No rule of the work is here."""

import time
from html import escape

import qt
import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import decide, library, packages, theme
from SynthCTSlicer.run import TITLES
from SynthCTSlicer.signals import PanelError
from SynthCTSlicer.volumes import SLOTS


class DropFilter(qt.QObject):
    """Takes files that are dropped on a widget."""

    def __init__(self, on_paths, on_hover):
        qt.QObject.__init__(self)
        self.on_paths, self.on_hover = on_paths, on_hover

    def eventFilter(self, watched, event):
        """Accept what has files, and hand it on after the drop is over."""
        kind = event.type()
        if kind == qt.QEvent.DragLeave:
            self.on_hover(False)
            return False
        if kind not in (qt.QEvent.DragEnter, qt.QEvent.DragMove, qt.QEvent.Drop):
            return False
        if not event.mimeData().hasUrls():
            return False
        event.acceptProposedAction()
        self.on_hover(kind != qt.QEvent.Drop)
        if kind == qt.QEvent.Drop:
            paths = [url.toLocalFile() for url in event.mimeData().urls()]
            qt.QTimer.singleShot(0, lambda: self.on_paths([p for p in paths if p]))
        return True


class PaletteFilter(qt.QObject):
    """Tells when the window of a widget turns light or dark."""

    def __init__(self, on_change):
        qt.QObject.__init__(self)
        self.on_change = on_change

    def eventFilter(self, watched, event):
        """Look, and let everything pass."""
        if event.type() in (qt.QEvent.PaletteChange, qt.QEvent.StyleChange):
            self.on_change()
        return False


SELECTORS = {
    "mr": "mrSelector",
    "ct": "ctSelector",
    "synthetic_ct": "syntheticCtSelector",
    "pet": "petSelector",
    "nac_pet": "nacPetSelector",
}
FINDINGS = {slot: name.replace("Selector", "Findings") for slot, name in SELECTORS.items()}


class VolumesView:
    """Part 1."""

    def __init__(self, ui, logic, task):
        self.ui, self.logic, self.task = ui, logic, task
        self._filling = False
        self.filter = DropFilter(self._dropped, self._hover)
        self._droppable = (ui.dropZone, ui.dropTitle, ui.dropHint)
        for widget in self._droppable:
            widget.setAcceptDrops(True)
            widget.installEventFilter(self.filter)
        self._hover(False)
        ui.browseButton.connect("clicked()", self._browse)
        ui.sampleButton.connect("clicked()", self._sample)
        for slot in SLOTS:
            selector = getattr(ui, SELECTORS[slot])
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._chooser(slot))
            _open_to_keyboard(selector)
        logic.changed.connect(self.show)
        task.changed.connect(self.show)
        self.show()

    def close(self):
        """Take the filter off: a filter without widget must not be called at the end."""
        for widget in self._droppable:
            widget.removeEventFilter(self.filter)

    def _chooser(self, slot):
        def chosen(node):
            if not self._filling:
                self.logic.choose(slot, node.GetID() if node is not None else "")

        return chosen

    def _hover(self, active):
        self.ui.dropZone.setStyleSheet(theme.drop_zone("dropZone", active))

    def restyle(self):
        """The window has turned light or dark."""
        self._hover(False)
        self.show()

    def _dropped(self, paths):
        slicer.app.processEvents()
        self.logic.drop(paths)

    def _browse(self):
        paths = qt.QFileDialog.getOpenFileNames(
            self.ui.dropZone,
            _("Choose MR, CT or PET"),
            "",
            _("Images (*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd *.dcm);;All files (*)"),
        )
        if isinstance(paths, tuple) and paths and isinstance(paths[0], tuple):
            paths = paths[0]
        if paths:
            self.logic.drop(list(paths))

    def _sample(self):
        import SampleData

        from SynthCTSlicer.samples import NAME

        try:
            nodes = SampleData.SampleDataLogic().downloadSamples(NAME)
        except Exception as error:
            self.logic.state.message = _("The sample cannot be loaded ({e}): reinstall.").format(
                e=error
            )
            self.logic.changed()
            return
        self.logic.take([node.GetID() for node in nodes])

    def show(self):
        """Show the state."""
        ui, state = self.ui, self.logic.state
        comparing = self.task.state.task == library.EVALUATE
        ui.syntheticCtLabel.setVisible(comparing)
        ui.syntheticCtSelector.setVisible(comparing)
        self._filling = True
        for slot in SLOTS:
            selector = getattr(ui, SELECTORS[slot])
            if selector.currentNodeID != state.nodes[slot]:
                selector.setCurrentNodeID(state.nodes[slot])
            label = getattr(ui, FINDINGS[slot])
            lines = self._lines(slot)
            label.setText("<br>".join(lines))
            label.setVisible(bool(lines) and (slot != "synthetic_ct" or comparing))
        self._filling = False
        ui.volumesMessage.setText(theme.line("error", state.message) if state.message else "")
        ui.volumesMessage.setVisible(bool(state.message))

    def _lines(self, slot):
        state = self.logic.state
        identifier = state.nodes[slot]
        if not identifier:
            return []
        lines = []
        guess = state.guesses.get(identifier)
        if guess is not None:
            text = _("Taken for {slot} by {reason}.").format(
                slot=TITLES[guess.slot], reason=guess.reason
            )
            lines.append(theme.line("note", text))
        found = state.findings.get(slot, ())
        if not found and state.checking:
            lines.append(theme.line("note", _("Checking")))
        return lines + [theme.line(f.severity, f.message) for f in found]


def _open_to_keyboard(selector):
    """A node selector hands its list's focus to itself and takes none: Tab would pass it by."""
    for child in selector.children():
        if child.inherits("QComboBox"):
            child.setFocusProxy(None)
            child.setAccessibleName(selector.accessibleName)


class TaskView:
    """Part 2."""

    REGISTRATIONS = (
        ("rigid", _("Rigid")),
        ("deformable", _("Deformable: limbs that bent between the scans")),
        ("none", _("None: already in place")),
    )
    ANATOMIES = (("", _("As the model says")), ("head", _("Head")), ("body", _("Other body part")))

    def __init__(self, ui, logic):
        self.ui, self.logic = ui, logic
        self._filling = False
        for box, choices in (
            (ui.registrationBox, self.REGISTRATIONS),
            (ui.anatomyBox, self.ANATOMIES),
            (ui.deviceBox, devices()),
        ):
            for value, title in choices:
                box.addItem(title, value)
        for box, name in (
            (ui.registrationBox, "registration"),
            (ui.anatomyBox, "anatomy"),
            (ui.deviceBox, "device"),
            (ui.conventionBox, "convention"),
        ):
            box.connect("currentIndexChanged(int)", self._setter(box, name))
        ui.taskBox.connect("currentIndexChanged(int)", self._task_chosen)
        ui.modelBox.connect("currentIndexChanged(int)", self._model_chosen)
        ui.biasBox.connect("toggled(bool)", lambda on: self._set("bias_correction", bool(on)))
        ui.tableBox.connect("toggled(bool)", lambda on: self._set("remove_table", bool(on)))
        ui.fieldSlider.connect(
            "valueChanged(double)", lambda value: self._set("head_field_mm", float(value))
        )
        logic.changed.connect(self.show)
        self.show()

    def _setter(self, box, name):
        def chosen(index):
            if index >= 0:
                self._set(name, box.itemData(index))

        return chosen

    def _set(self, name, value):
        if not self._filling:
            self.logic.set(name, value)

    def _task_chosen(self, index):
        if index >= 0 and not self._filling:
            self.logic.choose_task(self.ui.taskBox.itemData(index))

    def _model_chosen(self, index):
        if index >= 0 and not self._filling:
            self.logic.choose_model(self.ui.modelBox.itemData(index))

    def show(self):
        """Show the state."""
        ui, state = self.ui, self.logic.state
        self._filling = True
        _fill(ui.taskBox, [(t, TASKS.get(t, t)) for t in state.tasks], state.task)
        _fill(ui.modelBox, [(m.name, m.name) for m in state.models], state.model)
        _fill(ui.conventionBox, [(c, c) for c in state.conventions], state.convention)
        for box, value in (
            (ui.registrationBox, state.registration),
            (ui.anatomyBox, state.anatomy),
            (ui.deviceBox, state.device),
        ):
            box.setCurrentIndex(max(0, box.findData(value)))
        ui.biasBox.setChecked(state.bias_correction)
        ui.tableBox.setChecked(state.remove_table)
        ui.fieldSlider.setValue(state.head_field_mm)
        comparing = state.task == library.EVALUATE
        ui.modelLabel.setVisible(not comparing)
        ui.modelBox.setVisible(not comparing)
        text = self.logic.card
        if state.problem:
            text = theme.line("error", state.problem)
        elif comparing:
            text = _("A synthetic CT from anywhere is compared with a reference CT of the patient.")
        elif not state.models:
            text = theme.line("warning", _("No installed model does this task: choose another."))
        ui.cardText.setText(text)
        self._filling = False


TASKS = {
    "mr-to-ct": _("MR to CT"),
    "nac-pet-to-ct": _("NAC PET to CT"),
    "ct-to-pet": _("CT to PET"),
    "mr-to-pet": _("MR to PET"),
    library.EVALUATE: _("Compare two volumes"),
}


def devices():
    """The devices to choose from: each GPU with its free memory, as its driver says."""
    import shutil
    import subprocess

    found = [("auto", _("Automatic")), ("cpu", _("CPU"))]
    program = shutil.which("nvidia-smi")
    if program:
        query = [program, "--query-gpu=index,name,memory.free", "--format=csv,noheader,nounits"]
        try:
            said = subprocess.run(query, capture_output=True, text=True, timeout=3, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return found
        for line in said.stdout.splitlines():
            index, name, free = (part.strip() for part in line.split(",", 2))
            if index.isdigit():
                text = f"{name}, {float(free) / 1024:.1f} GB free" if free.isdigit() else name
                found.append((f"cuda:{index}", text))
    return found


def _fill(box, items, current):
    """Give a combo box its items, when they are others than before, and its choice."""
    shown = [box.itemData(i) for i in range(box.count)]
    if shown != [value for value, _title in items]:
        box.clear()
        for value, title in items:
            box.addItem(title, value)
    index = box.findData(current)
    if index != box.currentIndex:
        box.setCurrentIndex(index)


def bring_up(widget):
    """Scroll the column of modules until a widget is at its top."""
    area = widget.parent()
    while area is not None and not area.inherits("QScrollArea"):
        area = area.parent()
    if area is not None:
        place = widget.mapTo(area.widget(), qt.QPoint(0, 0))
        area.verticalScrollBar().setValue(place.y())


def duration(seconds):
    """Seconds for people."""
    seconds = int(seconds)
    return f"{seconds // 60}:{seconds % 60:02d}"


class RunView:
    """Part 3."""

    def __init__(self, ui, logic):
        self.ui, self.logic = ui, logic
        ui.runButton.setStyleSheet(theme.PRIMARY)
        ui.runButton.connect("clicked()", self._run)
        ui.cancelButton.connect("clicked()", logic.cancel)
        ui.logButton.connect("toggled(bool)", self._open_log)
        ui.copyLogButton.connect("clicked()", self._copy)
        ui.removeButton.connect("clicked()", self._remove)
        ui.firstOffer.connect("clicked()", lambda: self._accept(0))
        ui.secondOffer.connect("clicked()", lambda: self._accept(1))
        self._open_log(False)
        logic.changed.connect(self.show)
        self.show()

    def _run(self):
        self._try(self.logic.start)

    def _accept(self, index):
        _text, again = self.logic.state.offers[index]
        self._try(again)

    def _try(self, action):
        try:
            action()
        except PanelError as error:
            self.logic.say(str(error), "error")

    def _remove(self):
        self.logic.remove_waiting(max(0, self.ui.queueList.currentRow))

    def _open_log(self, on):
        self.ui.logText.setVisible(bool(on))
        self.ui.copyLogButton.setVisible(bool(on))

    def _copy(self):
        qt.QApplication.clipboard().setText(self.ui.logText.toPlainText())

    def show(self):
        """Show the state."""
        ui, state = self.ui, self.logic.state
        at_work = state.busy or state.loading
        ui.runButton.setText(_("Add to the queue") if at_work else _("Run"))
        ui.cancelButton.setEnabled(state.busy and not state.cancelling)
        ui.progressBar.setVisible(at_work)
        ui.progressBar.setValue(round(1000 * state.fraction))
        self.tick()
        count = len(state.waiting)
        ui.queueLabel.setText(_("{n} waiting").format(n=count) if count else "")
        for widget in (ui.queueLabel, ui.queueList, ui.removeButton):
            widget.setVisible(bool(count))
        if [ui.queueList.item(i).text() for i in range(ui.queueList.count)] != list(state.waiting):
            ui.queueList.clear()
            for title in state.waiting:
                ui.queueList.addItem(title)
        for i, button in enumerate((ui.firstOffer, ui.secondOffer)):
            button.setVisible(i < len(state.offers))
            if i < len(state.offers):
                button.setText(state.offers[i][0])
        ui.messageFrame.setVisible(bool(state.message))
        ui.messageFrame.setStyleSheet(theme.frame("messageFrame", state.severity))
        ui.messageText.setText(theme.line(state.severity, state.message) if state.message else "")
        ui.messageText.setToolTip(state.message)  # a long path is cut off in a narrow panel
        text = "\n".join(state.log)
        if text != ui.logText.toPlainText():
            ui.logText.setPlainText(text)

    def tick(self):
        """Show the time."""
        ui, state = self.ui, self.logic.state
        at_work = state.busy or state.loading
        ui.stageLabel.setVisible(at_work)
        ui.timeLabel.setVisible(at_work)
        if not at_work:
            return
        ui.stageLabel.setText(_("Cancelling") if state.cancelling else state.stage)
        text = duration(time.monotonic() - state.started)
        if state.remaining_s is not None:
            text = _("{t}, about {r} left").format(t=text, r=duration(state.remaining_s))
        ui.timeLabel.setText(text)


class SetsView:
    """The parameter sets of the scene. ``sets`` gives (node ID, name) pairs, the current's ID."""

    def __init__(self, ui, sets, choose, make):
        self.ui, self._sets, self._choose = ui, sets, choose
        self._filling = False
        ui.setBox.connect("currentIndexChanged(int)", self._chosen)
        ui.newSetButton.connect("clicked()", make)

    def _chosen(self, index):
        if index >= 0 and not self._filling:
            self._choose(self.ui.setBox.itemData(index))

    def show(self):
        """Show the sets there are."""
        items, current = self._sets()
        self._filling = True
        _fill(self.ui.setBox, items, current)
        self._filling = False


class ReviewView:
    """Part 4."""

    def __init__(self, ui, logic, say, reevaluate, shortcut_parent):
        self.ui, self.logic, self._say = ui, logic, say
        self._was_shown = None
        self._filling = False
        ui.rowButton.connect("clicked()", lambda: self._try(lambda: logic.arrange(grid=False)))
        ui.gridButton.connect("clicked()", lambda: self._try(lambda: logic.arrange(grid=True)))
        ui.restoreButton.connect("clicked()", logic.restore)
        ui.tablesButton.connect("clicked()", lambda: self._try(logic.show_tables))
        for button, name in (
            (ui.boneButton, "bone"),
            (ui.brainButton, "brain"),
            (ui.softButton, "soft"),
        ):
            button.connect("clicked()", self._presetter(name))
        ui.windowSlider.connect("valueChanged(double)", self._window)
        for box in (ui.firstBox, ui.secondBox):
            box.connect("currentIndexChanged(int)", self._compared)
        ui.opacitySlider.connect("valueChanged(double)", self._compared)
        ui.flickerButton.connect("clicked()", logic.flicker)
        self.shortcut = qt.QShortcut(qt.QKeySequence("F8"), shortcut_parent)
        self.shortcut.connect("activated()", logic.flicker)
        ui.outlineBox.connect("toggled(bool)", lambda on: self._outline(bool(on)))
        ui.placesList.connect("currentRowChanged(int)", self._place)
        ui.editMasksButton.connect("clicked()", lambda: self._try(logic.edit_masks))
        ui.reevaluateButton.connect("clicked()", lambda: self._try(reevaluate))
        logic.changed.connect(self.show)
        self.show()

    def _try(self, action):
        try:
            action()
        except PanelError as error:
            self._say(str(error))

    def _presetter(self, name):
        return lambda: self.logic.preset(name)

    def _window(self, value):
        if not self._filling:
            self.logic.set_window(float(value))

    def _outline(self, on):
        if not self._filling:
            self.logic.set_outline(on)

    def _place(self, row):
        if not self._filling:
            self.logic.go_to(row)

    def _compared(self, value):
        if self._filling:
            return
        ui = self.ui
        first = ui.firstBox.itemData(ui.firstBox.currentIndex)
        second = ui.secondBox.itemData(ui.secondBox.currentIndex)
        self.logic.compare(first or "", second or "", float(ui.opacitySlider.value))

    def show(self):
        """Show the state."""
        ui, state = self.ui, self.logic.state
        self._filling = True
        ui.reviewSection.setEnabled(bool(state.run))
        if bool(state.run) != self._was_shown:
            self._was_shown = bool(state.run)
            ui.reviewSection.collapsed = not state.run
        items = list(state.shown)
        _fill(ui.firstBox, items, state.first)
        _fill(ui.secondBox, [("", _("each view its own")), *items], state.second)
        ui.opacitySlider.setValue(state.opacity)
        ui.windowSlider.setValue(state.window_hu)
        ui.outlineBox.setChecked(state.outline)
        has_difference = self.logic.node("difference") is not None
        ui.windowSlider.setVisible(has_difference)
        ui.windowLabel.setVisible(has_difference)
        texts = [place.text for place in state.places]
        if [ui.placesList.item(i).text() for i in range(ui.placesList.count)] != texts:
            ui.placesList.clear()
            for text in texts:
                ui.placesList.addItem(text)
        ui.placesList.setVisible(bool(texts))
        ui.placesLabel.setVisible(bool(texts))
        ui.metricsText.setText(metrics_html(state.metrics))
        ui.metricsText.setVisible(bool(state.metrics))
        ui.factsText.setText("<br>".join(escape(fact) for fact in state.facts))
        ui.reevaluateButton.setEnabled(state.can_reevaluate)
        ui.editMasksButton.setEnabled(self.logic.node("masks") is not None)
        self._filling = False


SHOWN_METRICS = ("Mask", "MAE HU", "ME HU", "Dice bone", "SSIM", "µ rMAE %")


def metrics_html(rows):
    """The figures that fit a narrow panel; the table node has all."""
    if not rows:
        return ""
    columns = [i for i, name in enumerate(rows[0]) if name in SHOWN_METRICS]
    line = "rgba(127,127,127,90)"

    def cells(row, tag):
        made = ""
        for order, i in enumerate(columns):
            align = "left" if order == 0 else "right"
            text = escape(row[i].replace("_", " ") if order == 0 else row[i])
            made += f"<{tag} align='{align}' style='padding:2px 6px'>{text}</{tag}>"
        return f"<tr>{made}</tr>"

    body = cells(rows[0], "th") + "".join(cells(row, "td") for row in rows[1:])
    return f"<table width='100%' cellspacing='0' style='border-top:1px solid {line}'>{body}</table>"


FORMATS = {
    "nifti": "NIfTI (.nii.gz)",
    "nrrd": "NRRD (.nrrd)",
    "metaimage": "MetaImage (.mha)",
    "dicom": _("DICOM CT series"),
    "dicom-pm": _("DICOM parametric µ-map"),
    "dicom-int": _("DICOM µ-map, whole numbers"),
    "interfile": _("Interfile for STIR"),
    "interfile-mmr": _("Interfile for the Siemens mMR"),
}


class DecideView:
    """Part 5."""

    def __init__(self, ui, logic, task, export_mu_map, export_job):
        self.ui, self.logic = ui, logic
        self._export_mu_map, self._export_job = export_mu_map, export_job
        self._was_shown = self._shown = None
        task.changed.connect(self._list_formats)
        self._list_formats()
        self.boxes = {
            "registration": ui.reasonRegistration,
            "metal": ui.reasonMetal,
            "field-of-view": ui.reasonField,
            "bone": ui.reasonBone,
            "air": ui.reasonAir,
            "motion": ui.reasonMotion,
            "other": ui.reasonOther,
        }
        ui.acceptButton.connect("clicked()", lambda: self._decide(decide.ACCEPTED))
        ui.rejectButton.connect("clicked()", lambda: self._decide(decide.REJECTED))
        ui.exportButton.connect("clicked()", lambda: self._export(self._export_job))
        ui.exportMuButton.connect("clicked()", lambda: self._export(self._export_mu_map))
        ui.reportButton.connect("clicked()", lambda: self._try(self._open_report))
        ui.bundleButton.connect("clicked()", lambda: self._try(self._save_bundle))
        logic.changed.connect(self.show)
        self.show()

    def _try(self, action):
        try:
            action()
        except PanelError as error:
            self.logic.state.message, self.logic.state.severity = str(error), "error"
            self.logic.changed()

    def _decide(self, verdict):
        reasons = [name for name, box in self.boxes.items() if box.isChecked()]
        self._try(lambda: self.logic.decide(verdict, reasons, self.ui.remarkEdit.text))

    def _list_formats(self):
        if self.ui.formatBox.count == 0 and not library.missing_packages():
            items = [(name, FORMATS.get(name, name)) for name, _d, _s in library.export_formats()]
            _fill(self.ui.formatBox, items, items[0][0])

    def _export(self, export):
        ui = self.ui
        self._try(
            lambda: export(
                ui.exportFolder.currentPath,
                ui.formatBox.itemData(ui.formatBox.currentIndex),
                bool(ui.petGridBox.isChecked()),
                float(ui.fwhmSlider.value),
            )
        )

    def _open_report(self):
        path = self.logic.report_path()
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))

    def _save_bundle(self):
        folder = self.logic._folder(self.ui.exportFolder.currentPath)
        subject = self.logic.review.record().get("subject", "SynthCT")
        self.logic.save_bundle(folder / f"{subject}.mrb")

    def show(self):
        """Show the state."""
        ui, state = self.ui, self.logic.state
        ui.decideSection.setEnabled(bool(state.run))
        if bool(state.run) != self._was_shown:
            self._was_shown = bool(state.run)
            ui.decideSection.collapsed = not state.run
        if (state.run, state.decided) != self._shown:  # else the user is still choosing
            self._shown = (state.run, state.decided)
            for name, box in self.boxes.items():
                box.setChecked(name in state.reasons)
            ui.remarkEdit.setText(state.remark)
        ui.decisionLabel.setText(state.decided or _("Not decided yet."))
        ui.decideFrame.setVisible(bool(state.message))
        ui.decideFrame.setStyleSheet(theme.frame("decideFrame", state.severity))
        ui.decideText.setText(theme.line(state.severity, state.message) if state.message else "")
        ui.decideText.setToolTip(state.message)


class NoticeView:
    """The strip at the top: packages that are missing."""

    def __init__(self, ui, installed):
        self.ui, self._installed = ui, installed
        self._wanted = []
        ui.noticeButton.connect("clicked()", lambda: self._install(""))
        ui.noticeWheelsButton.connect("clicked()", self._from_folder)
        self.show()

    def want(self, package):
        """Ask for a package that a run has missed."""
        if package and package not in self._wanted:
            self._wanted.append(package)
        self.show()

    def show(self, problem=""):
        """Show what is missing."""
        text = problem or packages.sentence(self._wanted)
        self.ui.notice.setVisible(bool(text))
        self.ui.notice.setStyleSheet(theme.frame("notice", "warning"))
        self.ui.noticeText.setText(theme.line("warning", text) if text else "")

    def _install(self, wheels):
        try:
            packages.install(wheels, self._wanted)
        except PanelError as error:
            self.show(str(error))
            return
        self._wanted.clear()
        self.show()
        self._installed()

    def _from_folder(self):
        folder = qt.QFileDialog.getExistingDirectory(self.ui.notice, _("Folder of wheels"))
        if folder:
            self._install(folder)
